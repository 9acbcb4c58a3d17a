{{- define "holdfast.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "holdfast.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 57 | trimSuffix "-" }}
{{- else if contains (include "holdfast.name" .) .Release.Name -}}
{{- .Release.Name | trunc 57 | trimSuffix "-" }}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "holdfast.name" .) | trunc 57 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "holdfast.selector" -}}
app.kubernetes.io/name: {{ include "holdfast.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "holdfast.labels" -}}
{{ include "holdfast.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{- define "holdfast.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}
{{- end }}

{{- define "holdfast.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{ .Values.serviceAccount.name | default (include "holdfast.fullname" .) }}
{{- else -}}
{{ .Values.serviceAccount.name | default "default" }}
{{- end }}
{{- end }}

{{- define "holdfast.peers" -}}
{{ include "holdfast.fullname" . }}-peers
{{- end }}

{{- define "holdfast.clusterSecret" -}}
{{ .Values.cluster.existingSecret | default (printf "%s-cluster" (include "holdfast.fullname" .)) }}
{{- end }}

{{- define "holdfast.hasRedis" -}}
{{- if or .Values.cluster.redis.url .Values.cluster.redis.existingSecret }}yes{{ end }}
{{- end }}

{{- /* The configuration file: what the chart decides, and over it the value `config`. */ -}}
{{- define "holdfast.config" -}}
{{- $own := list "listen" "cluster" }}
{{- range $own }}
{{- if hasKey $.Values.config . }}
{{- fail (printf "config.%s is decided by the chart: see the values ports and cluster" .) }}
{{- end }}
{{- end }}
{{- if hasKey (.Values.config.admin | default dict) "listen" }}
{{- fail "config.admin.listen is decided by the chart: see the value ports" }}
{{- end }}
{{- range $key := list "url" "discover" }}
{{- if hasKey ($.Values.config.upstream | default dict) $key }}
{{- fail (printf "config.upstream.%s: set the value upstream.%s instead" $key $key) }}
{{- end }}
{{- end }}
{{- $upstream := dict "url" .Values.upstream.url }}
{{- if ne .Values.upstream.discover "none" }}
{{- $_ := set $upstream "discover" .Values.upstream.discover }}
{{- end }}
{{- $config := dict
  "listen" (printf ":%d" (int .Values.ports.clients))
  "upstream" $upstream
  "shutdown" (dict "drain_timeout" (printf "%ds" (int .Values.drainSeconds)))
  "admin" (dict "listen" (printf ":%d" (int .Values.ports.admin)))
  "log" (dict "format" "json")
}}
{{- if .Values.cluster.enabled }}
{{- $cluster := dict
  "listen" (printf ":%d" (int .Values.ports.peers))
  "secret_file" (printf "/etc/holdfast-cluster/%s" .Values.cluster.existingSecretKey)
  "name" (.Values.cluster.name | default (include "holdfast.fullname" .))
}}
{{- if .Values.cluster.redis.url }}
{{- $_ := set $cluster "peers" (list .Values.cluster.redis.url) }}
{{- else if not .Values.cluster.redis.existingSecret }}
{{- $_ := set $cluster "peers" (list (printf "%s.%s.svc:%d" (include "holdfast.peers" .) .Release.Namespace (int .Values.ports.peers))) }}
{{- end }}
{{- $_ := set $config "cluster" $cluster }}
{{- end }}
{{- toYaml (mergeOverwrite $config (deepCopy .Values.config)) }}
{{- end }}
