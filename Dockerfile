# docker build -t holdfast --build-arg VERSION="$(git describe --tags --always)" .
# For several platforms: docker buildx build --platform linux/amd64,linux/arm64,linux/arm/v7 ...

# Go cross-compiles, so this stage always runs on the builder's own platform.
FROM --platform=$BUILDPLATFORM golang:1.26 AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
ARG VERSION=dev
ARG COMMIT=
ARG DATE=
ARG TARGETOS=linux
ARG TARGETARCH
ARG TARGETVARIANT
RUN CGO_ENABLED=0 GOOS=$TARGETOS GOARCH=$TARGETARCH GOARM=${TARGETVARIANT#v} go build -trimpath -ldflags "-s -w \
  -X github.com/holdfast/holdfast/internal/buildinfo.version=$VERSION \
  -X github.com/holdfast/holdfast/internal/buildinfo.commit=$COMMIT \
  -X github.com/holdfast/holdfast/internal/buildinfo.date=$DATE" -o /out/holdfast .

# The image contains only the binary and the certificate authorities for https:// upstreams.
FROM scratch
ARG VERSION=dev
ARG COMMIT=
ARG DATE=
LABEL org.opencontainers.image.title="holdfast" \
  org.opencontainers.image.description="Connection state recovery for legacy Socket.IO servers" \
  org.opencontainers.image.source="https://github.com/holdfast/holdfast" \
  org.opencontainers.image.documentation="https://github.com/holdfast/holdfast#readme" \
  org.opencontainers.image.licenses="MIT" \
  org.opencontainers.image.version="$VERSION" \
  org.opencontainers.image.revision="$COMMIT" \
  org.opencontainers.image.created="$DATE"
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /out/holdfast /holdfast
USER 65532:65532
# On 127.0.0.1 the metrics would be unreachable from outside the container. Do not publish this port
# to the public.
ENV HOLDFAST_ADMIN_LISTEN=:9090
EXPOSE 8080 9090
# The check reads the same variables as the server. With -config FILE in the command, set
# HOLDFAST_CONFIG instead.
HEALTHCHECK --interval=10s --timeout=5s --start-period=5s --retries=3 CMD ["/holdfast", "health"]
ENTRYPOINT ["/holdfast"]
