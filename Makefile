# Targets for everyday work. CI calls the same ones. CONTRIBUTING.md says more.

VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
# The commit and its date, in UTC: the same commit makes the same bytes.
COMMIT ?= $(shell git rev-parse HEAD 2>/dev/null)
DATE ?= $(shell TZ=UTC0 git log -1 --format=%cd --date=format-local:%Y-%m-%dT%H:%M:%SZ 2>/dev/null)
BUILDINFO := github.com/holdfast/holdfast/internal/buildinfo
LDFLAGS := -s -w -X $(BUILDINFO).version=$(VERSION) -X $(BUILDINFO).commit=$(COMMIT) -X $(BUILDINFO).date=$(DATE)
GOLANGCI_LINT_VERSION := v2.15.0
LINT := bin/golangci-lint-$(GOLANGCI_LINT_VERSION)
ACTIONLINT_VERSION := v1.7.12
ACTIONLINT := bin/actionlint-$(ACTIONLINT_VERSION)
NODE_MODULES := test/e2e/node_modules/.package-lock.json
CHART_TOOLS := bin/helm bin/kustomize

##@ Everyday

.PHONY: all
all: lint test build ## Lint, test and build

.PHONY: help
help: ## Show this list
	@echo 'Usage: make TARGET [VARIABLE=value]'; echo
	@awk 'BEGIN { FS = ":.*## " } \
	  /^##@ / { printf "%s%s\n", n++ ? "\n" : "", substr($$0, 5) } \
	  /^[a-z0-9-]+:.*## / { printf "  %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

##@ Build

.PHONY: build
build: ## Build the static binary bin/holdfast
	CGO_ENABLED=0 go build -trimpath -ldflags '$(LDFLAGS)' -o bin/holdfast .

.PHONY: clean
clean: ## Remove everything that was built or installed here
	rm -rf bin dist test/e2e/.bin test/e2e/node_modules test/e2e/suites/node_modules

.PHONY: demo
demo: ## Watch a client lose its connection and recover
	go run . -demo

RELEASE = go run ./scripts/release $@ -out dist/$(OUT) -version '$(VERSION)' -commit '$(COMMIT)' -date '$(DATE)' -platforms '$(PLATFORMS)'
# PLATFORMS chooses some, such as host or linux-amd64,darwin-arm64.
PLATFORMS ?= all

.PHONY: dist
dist: OUT = release
dist: ## Build archives, deb and rpm packages, SBOMs and checksums into dist/release: PLATFORMS=host
	$(RELEASE)

IMAGE ?= holdfast

.PHONY: image
image: ## Build the container image with Docker: IMAGE=name:tag
	docker build -t '$(IMAGE)' --build-arg VERSION='$(VERSION)' --build-arg COMMIT='$(COMMIT)' --build-arg DATE='$(DATE)' .

.PHONY: npm
npm: OUT = npm
npm: ## Build the packages for npm into dist/npm: PLATFORMS=host
	$(RELEASE)

##@ Code

# Systems that we build for without testing on them. Vetting a package compiles it, and type-checks
# its tests.
CROSS := windows darwin freebsd

.PHONY: cross
cross: ## Check that all packages and their tests compile for other systems, and for 32 bits
	@for os in $(CROSS); do echo "GOOS=$$os go vet ./..."; GOOS=$$os CGO_ENABLED=0 go vet ./... || exit 1; done
	@echo "GOARCH=386 go vet ./..."; GOARCH=386 CGO_ENABLED=0 go vet ./... # sizes must fit an int of 32 bits

.PHONY: fmt
fmt: $(LINT) ## Format the code
	$(LINT) fmt
	go mod tidy

.PHONY: lint
lint: $(LINT) $(ACTIONLINT) ## Check the code, its imports and the documents without running anything
	$(LINT) fmt --diff
	go vet ./...
	$(MAKE) --no-print-directory cross
	$(LINT) run
	$(ACTIONLINT)
	go mod tidy -diff
	scripts/check-imports.sh
	scripts/check-docs.sh

$(LINT):
	GOBIN='$(CURDIR)/bin' go install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(GOLANGCI_LINT_VERSION)
	mv bin/golangci-lint $@

$(ACTIONLINT):
	GOBIN='$(CURDIR)/bin' go install github.com/rhysd/actionlint/cmd/actionlint@$(ACTIONLINT_VERSION)
	mv bin/actionlint $@

.PHONY: schema
schema: ## Write config.schema.json from internal/config
	go test ./internal/config -run TestSchemaFile -update

##@ Test

.PHONY: charts
charts: $(CHART_TOOLS) ## Test the Helm chart, the kustomize component, Dockerfile and Compose files: builds helm first
	cd test/charts && go vet ./... && go test -count=1 ./... # go test does not know what helm reads, and has a result cached

# go.mod pins their versions. Together they take three minutes to build.
bin/helm: CHART_TOOL = helm.sh/helm/v3/cmd/helm
bin/kustomize: CHART_TOOL = sigs.k8s.io/kustomize/kustomize/v5
$(CHART_TOOLS): test/charts/go.sum
	cd test/charts && CGO_ENABLED=0 go build -ldflags '-s -w' -o ../../$@ $(CHART_TOOL)

MORE_CLIENTS := test/e2e/clients/node_modules/.package-lock.json

# Also socket.io-client-java and -cpp, where HOLDFAST_E2E_JAVA_CLASSPATH and HOLDFAST_E2E_CPP_SOURCE
# name them.
.PHONY: clients
clients: $(NODE_MODULES) $(MORE_CLIENTS) ## Test each minor version of socket.io-client, and clients in other languages
	cd test/e2e && HOLDFAST_E2E_CLIENTS=1 NODE_PATH='$(CURDIR)/test/e2e/clients/node_modules' HOLDFAST_E2E_RACE=$(RACE) node run.js clients

$(MORE_CLIENTS): test/e2e/clients/package-lock.json
	cd test/e2e/clients && npm ci --ignore-scripts --no-audit --no-fund
	@touch $@

SUITE_MODULES := test/e2e/suites/node_modules/.package-lock.json

.PHONY: conformance
conformance: $(NODE_MODULES) $(SUITE_MODULES) ## Run the protocols' own suites and the client's: SUITES=dir, a clone of socketio/socket.io
	@test -n "$(SUITES)" || { echo "make conformance SUITES=dir: dir is a clone of github.com/socketio/socket.io" >&2; exit 2; }
	cd test/e2e && SUITES="$(abspath $(SUITES))" node conformance.js

$(SUITE_MODULES): test/e2e/suites/package-lock.json
	cd test/e2e/suites && npm ci --ignore-scripts --no-audit --no-fund
	@touch $@

.PHONY: deps
deps: $(NODE_MODULES) ## Install what the tests need: npm packages and, as root on Debian, Debian packages
	scripts/deps.sh

$(NODE_MODULES): test/e2e/package-lock.json
	cd test/e2e && npm ci --ignore-scripts --no-audit --no-fund # socket.io 1 would compile a WebSocket library that it can do without
	@touch $@

# RACE=0 tests a binary without the race detector. TESTS lists files, or how their names begin.
RACE ?= 1
TESTS ?=

.PHONY: e2e
e2e: $(NODE_MODULES) ## Run the end-to-end tests: TESTS=recovery RACE=0
	cd test/e2e && HOLDFAST_E2E_RACE=$(RACE) node run.js $(TESTS)

FUZZTIME ?= 30s

.PHONY: fuzz
fuzz: ## Run every fuzz target for FUZZTIME=30s
	FUZZTIME=$(FUZZTIME) scripts/fuzz.sh

.PHONY: long
long: $(NODE_MODULES) ## Run the tests that take too long for make test, ten minutes: partitions, races and storms of replicas: SEED=1
	HOLDFAST_LONG=1 go test ./proxy -run '3CutAtEveryByte|PollingThroughAnyReplica'
	HOLDFAST_LONG=1 $(if $(SEED),SEED=$(SEED)) go test ./proxy -run TestReplicasWithPolling
	cd test/e2e && HOLDFAST_LONG=1 $(if $(SEED),SEED=$(SEED)) HOLDFAST_E2E_RACE=0 node run.js cluster-long
	cd test/e2e && HOLDFAST_LONG=1 HOLDFAST_E2E_RACE=0 node run.js poison -- --test-name-pattern="takes four seconds"

# The raw system calls of the event loop, which a build with the race detector leaves out, and the
# code that runs only when the event loop is switched off.
NETWORK := ./internal/netpoll ./internal/engineio ./internal/accept ./internal/upstream ./proxy

.PHONY: network
network: ## Run the network packages' Go tests without the race detector, then without the event loop
	go test $(NETWORK)
	TEST_EVENT_LOOP=off go test -count=1 $(NETWORK) # go test does not track this variable: it would use a cached result

# Tests that do not depend on the system: no Unix sockets, raw system calls or texts of system
# errors. internal/demo runs server, holdfast and client, and recovers.
PORTABLE := . ./buffer ./metrics ./session ./internal/admin/... ./internal/buildinfo ./internal/demo ./internal/jsonscan \
  ./internal/limit ./internal/logging ./internal/reason ./internal/siotest/... ./internal/socketio ./internal/upstream

.PHONY: portable
portable: ## Run the Go tests that pass on every system, Windows included
	go test $(PORTABLE)

.PHONY: race
race: ## Run the Go tests with the race detector, then make network
	go test -race ./...
	$(MAKE) network

# SEED repeats a run's faults. LANES chooses pairs of a server and a holdfast: 1 and 2 are socket.io
# 4, 3 has packets that clients cannot decode, 4 is socket.io 2, 5 is a smaller 3, 6 is three
# replicas, 7 and 8 have clients with a key, 9 is replicas in Redis, 10 both. JSON names a file for
# the full result.
MINUTES ?= 10
SEED ?=
LANES ?= 1,2,3,4,6,7,8,9,10
JSON ?=
SOAK_FLAGS = $(if $(SEED),--seed $(SEED)) $(if $(JSON),--json $(abspath $(JSON)))

.PHONY: soak
soak: $(NODE_MODULES) ## Run clients under random faults and report: MINUTES=10 SEED=1 LANES=1,2 JSON=file RACE=0
	cd test/e2e && HOLDFAST_E2E_RACE=$(RACE) node soak/run.js --minutes $(MINUTES) --lanes $(LANES) $(SOAK_FLAGS)

.PHONY: test
test: deps race e2e ## Install what the tests need, and run all of them
	@if [ -x bin/helm ] && [ -x bin/kustomize ]; then $(MAKE) --no-print-directory charts; else \
	  echo "NOT TESTED: deploy/helm, deploy/kustomize, Dockerfile and Compose files. make charts tests them, and takes three minutes the first time." >&2; fi
	$(MAKE) soak MINUTES=2 LANES=1,2 RACE=0 # the race detector's own memory grows

.PHONY: unit
unit: ## Run the Go tests
	go test ./...

##@ Measure

.PHONY: bench
bench: $(NODE_MODULES) ## Run the benchmarks beside HAProxy and nginx, in a short form
	go run ./test/bench -short

# The duration for each of the three servers.
JITTER_SECONDS ?= 60

.PHONY: jitter
jitter: $(NODE_MODULES) ## Compare what arrives on a bad network: JITTER_SECONDS=60 SEED=1 JSON=file
	cd test/e2e && node soak/jitter.js --seconds $(JITTER_SECONDS) $(SOAK_FLAGS)

.PHONY: screenshot
screenshot: $(NODE_MODULES) ## Take the README's picture of the status page, in two minutes
	cd test/e2e && HOLDFAST_E2E_SCREENSHOT='$(CURDIR)/docs/images/status.png' node run.js status -- --test-name-pattern='real clients'
