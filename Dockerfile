# docker build --build-arg VERSION=$(git describe --tags --always) -t holdfast .

FROM golang:1.26 AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
ARG VERSION=dev
RUN CGO_ENABLED=0 go build -trimpath -ldflags "-s -w -X main.version=$VERSION" -o /out/holdfast .

# The image contains only the binary and the certificate authorities for https:// upstreams.
FROM scratch
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /out/holdfast /holdfast
USER 65532:65532
# On 127.0.0.1 the metrics would be unreachable from outside the container. Do not publish this port to the public.
ENV HOLDFAST_ADMIN_LISTEN=:9090
EXPOSE 8080 9090
ENTRYPOINT ["/holdfast"]
