// Package charts tests deploy/helm, deploy/kustomize and deploy/kubernetes with the real helm and
// kustomize, and decodes what they render strictly with the API types of Kubernetes. It reads the
// Dockerfile with BuildKit's parser, and the Compose files with Compose's. It is a module of its
// own, because these programs and types are large: `make charts` builds them and runs the tests.
package charts
