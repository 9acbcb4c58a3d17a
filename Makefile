# Targets for everyday work; .ci/run calls the same. CONTRIBUTING.md says more.

VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
LDFLAGS := -s -w -X main.version=$(VERSION)
GOLANGCI_LINT_VERSION := v2.15.0
LINT := bin/golangci-lint-$(GOLANGCI_LINT_VERSION)
FUZZTIME ?= 30s

.PHONY: all
all: lint test build

.PHONY: help
help: ## Show this list
	@sed -nE 's/^([a-z0-9-]+):.*## (.*)/  \1\t\2/p' $(MAKEFILE_LIST) | expand -t 16

.PHONY: build
build: ## Build the static binary bin/holdfast
	CGO_ENABLED=0 go build -trimpath -ldflags '$(LDFLAGS)' -o bin/holdfast .

.PHONY: demo
demo: ## Watch a client being cut and recovered
	go run . -demo

# ---- Tests

.PHONY: test
test: deps race e2e ## Install what tests need, and run all of them
	$(MAKE) soak MINUTES=2 RACE=0 # the race detector's own memory grows

.PHONY: deps
deps: test/e2e/node_modules/.package-lock.json
	scripts/deps.sh

test/e2e/node_modules/.package-lock.json: test/e2e/package-lock.json
	cd test/e2e && npm ci --no-audit --no-fund
	@touch $@

.PHONY: unit
unit: ## Run the Go tests
	go test ./...

.PHONY: race
race: ## Run the Go tests with the race detector
	go test -race ./...

# RACE=0 runs them on a plain binary; TESTS names files, or how their names begin.
RACE ?= 1
TESTS ?=

.PHONY: e2e
e2e: test/e2e/node_modules/.package-lock.json ## Run the end-to-end tests: TESTS=recovery RACE=0
	cd test/e2e && HOLDFAST_E2E_RACE=$(RACE) node run.js $(TESTS)

.PHONY: screenshot
screenshot: test/e2e/node_modules/.package-lock.json ## Take the status page's picture for the README, in two minutes
	cd test/e2e && HOLDFAST_E2E_SCREENSHOT='$(CURDIR)/docs/images/status.png' node run.js status -- --test-name-pattern='real clients'

# SEED repeats a run's faults; JSON names a file for all that was found.
MINUTES ?= 10
SEED ?=
JSON ?=
SOAK_FLAGS = $(if $(SEED),--seed $(SEED)) $(if $(JSON),--json $(abspath $(JSON)))

.PHONY: soak
soak: test/e2e/node_modules/.package-lock.json ## Clients under random faults, and a report: MINUTES=10 SEED=1 JSON=file RACE=0
	cd test/e2e && HOLDFAST_E2E_RACE=$(RACE) node soak/run.js --minutes $(MINUTES) $(SOAK_FLAGS)

# For each of three servers.
JITTER_SECONDS ?= 60

.PHONY: jitter
jitter: test/e2e/node_modules/.package-lock.json ## What arrives on a bad network, side by side: JITTER_SECONDS=60 SEED=1 JSON=file
	cd test/e2e && node soak/jitter.js --seconds $(JITTER_SECONDS) $(SOAK_FLAGS)

.PHONY: conformance
conformance: test/e2e/node_modules/.package-lock.json ## Run the protocols' own suites: SUITES=dir, a clone of socketio/socket.io
	@test -n "$(SUITES)" || { echo "make conformance SUITES=dir: dir is a clone of github.com/socketio/socket.io" >&2; exit 2; }
	cd test/e2e && SUITES="$(abspath $(SUITES))" node conformance.js

.PHONY: fuzz
fuzz: ## Run every fuzz target for FUZZTIME=30s
	FUZZTIME=$(FUZZTIME) scripts/fuzz.sh

.PHONY: bench
bench: test/e2e/node_modules/.package-lock.json ## Measure
	go run ./test/bench -short

# ---- Code

.PHONY: lint
lint: $(LINT) ## Check the code without running it
	$(LINT) fmt --diff
	go vet ./...
	$(LINT) run
	go mod tidy -diff
	scripts/check-docs.sh

.PHONY: fmt
fmt: $(LINT) ## Format the code
	$(LINT) fmt
	go mod tidy

$(LINT):
	GOBIN='$(CURDIR)/bin' go install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(GOLANGCI_LINT_VERSION)
	mv bin/golangci-lint $@

.PHONY: clean
clean: ## Remove what was built and installed here
	rm -rf bin dist test/e2e/.bin test/e2e/node_modules
