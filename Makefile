# Everything is made below build/. Each target installs the Debian packages that it needs, where
# they are missing and it runs as root. `make help` lists the targets.

SHELL := /bin/sh
GO ?= go
BUILD := build
BIN := $(BUILD)/bin
KAIROS := $(BIN)/kairos

# Times in what is built: the last commit's, so that one commit gives one result.
export SOURCE_DATE_EPOCH ?= $(shell git log -1 --format=%ct 2>/dev/null || echo 1767225600)
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo devel)

LDFLAGS := -s -w -X main.programVersion=$(VERSION)
GOBUILD := CGO_ENABLED=0 $(GO) build -trimpath -buildvcs=false -ldflags '$(LDFLAGS)'
STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.7.0

# What building images and booting them takes, beside Go.
RUN_DEPS := runc ca-certificates
VM_DEPS := qemu-system-x86 qemu-utils ovmf swtpm
# The tools that tests check our output with, and that benchmarks compare with.
TEST_DEPS := $(RUN_DEPS) $(VM_DEPS) erofs-utils squashfs-tools xorriso opensc softhsm2 cryptsetup-bin gdisk fdisk e2fsprogs dosfstools mtools genisoimage \
	qemu-system-arm qemu-efi-aarch64 openssh-client openssl osslsigncode sbsigntool efitools binutils cpio grub-common systemd docker.io rpm db5.3-util

.PHONY: help
help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | column -t -s '	'

.PHONY: build
build: assets ## the programs, in build/bin
	@mkdir -p $(BIN)
	$(GOBUILD) -o $(BIN)/ ./cmd/kairos ./cmd/kairos-frontend

.PHONY: kubectl-kairos
kubectl-kairos: ## kubectl's plugin for rollouts, in build/bin: `kubectl kairos`
	@mkdir -p $(BIN)
	$(GOBUILD) -o $(BIN)/kubectl-kairos ./cmd/kairos-operator

.PHONY: assets
assets: ## what boots an image: /init, kairos-apply, boot loaders; embedded in the programs
	@mkdir -p $(BUILD) && echo 'module build // not part of ./...' >$(BUILD)/go.mod
	scripts/deps mmdebstrap debian-archive-keyring
	scripts/assets

.PHONY: base
base: ## a Debian base image without a registry, in build/base/debian-trixie
	scripts/base

.PHONY: tools
tools: ## tools that tests check images with, in build/tools
	scripts/tools

.PHONY: images
images: build ## the frontend's, builder's and operator's images as OCI layouts, in build/images; IMAGES chooses some
	scripts/images

.PHONY: demo
demo: build base ## examples/debian as an ISO, booted to its login prompt under UEFI and BIOS
	scripts/deps $(RUN_DEPS) $(VM_DEPS)
	scripts/demo

# The one that takes longest begins first: two run at a time.
PACKAGES := ./node ./...

.PHONY: test
test: test-unit test-vm ## all tests: an hour and a quarter on two cores

.PHONY: test-unit
test-unit: build tools ## the tests that boot nothing: two minutes
	scripts/deps $(TEST_DEPS)
	$(GO) test $(PACKAGES)

.PHONY: test-registry
test-registry: assets ## what an upgrade fetches, by the log of another project's registry, without a virtual machine
	scripts/registry
	$(GO) test -tags registry -count 1 -v -run TestDistribution ./node

# Not part of `make test`: building the two programs takes as much time as a tenth of it.
.PHONY: test-fleet
test-fleet: ## rollouts against a real kube-apiserver and etcd, which it builds, and the chart by Helm; TESTS=REGEXP chooses some
	dir=$$(scripts/kubernetes) && KUBEBUILDER_ASSETS=$$dir \
		$(GO) test -tags fleet -count 1 -parallel 16 -timeout 40m $(if $(TESTS),-run '$(TESTS)') ./deploy ./test/fleet

# Beside test-fleet: building controller-manager, scheduler and kubelet takes as much time as all of that.
.PHONY: test-nodes
test-nodes: build base ## a machine with a real kubelet in a real cluster, which it builds; TESTS=REGEXP chooses some
	scripts/deps $(TEST_DEPS)
	scripts/kubernetes etcd kube-apiserver kube-controller-manager kube-scheduler kubelet
	IMAGES=operator scripts/images amd64
	$(GO) test -tags vm,fleet -count 1 -v -timeout 4h $(if $(TESTS),-run '$(TESTS)') ./test/cluster

.PHONY: test-race
test-race: build tools ## the same under the race detector, with a third of the disks that power cuts leave: it takes a C compiler
	scripts/deps $(TEST_DEPS) gcc libc6-dev
	CGO_ENABLED=1 $(GO) test -race -short -timeout 20m $(PACKAGES)

FUZZTIME ?= 60s
.PHONY: fuzz
fuzz: assets ## each fuzz test for FUZZTIME (60s); FUZZ=REGEXP chooses some
	scripts/fuzz $(FUZZTIME) '$(FUZZ)'

# The same of those that boot machines.
VM_PACKAGES := ./test/node ./test/doors ./node ./test/...

.PHONY: test-vm
test-vm: build base tools ## the tests that boot virtual machines; TESTS=REGEXP chooses some
	scripts/deps $(TEST_DEPS)
	scripts/base arm64
	scripts/registry
	$(GO) test -tags vm -p 2 -count 1 -timeout $(if $(KAIROS_TEST_ALL),6h,75m) $(if $(TESTS),-run '$(TESTS)') $(VM_PACKAGES)

.PHONY: test-all
test-all: export KAIROS_TEST_ALL = 1
test-all: test test-fleet test-nodes ## all tests, and those that `make test` skips for time: three hours

.PHONY: test-power
test-power: build base ## each disk that a power cut may leave, booted: days
	scripts/deps $(TEST_DEPS)
	KAIROS_TEST_POWER=all $(GO) test -tags vm -p 1 -count 1 -timeout 168h -run Power ./test/...

.PHONY: bench
bench: build base tools ## speed and size against other tools; writes docs/performance.md
	scripts/deps $(TEST_DEPS)
	$(GO) run ./cmd/kairos-bench

.PHONY: generate
generate: ## what is made from fleet's code and deploy: deploy/crd, deploy/rbac, deploy/chart, deep copies
	scripts/generate

.PHONY: lint
lint: assets ## gofmt, go.mod, vet, staticcheck, generated files
	@out=$$(gofmt -l $$(git ls-files --cached --others --exclude-standard '*.go')); \
	if [ -n "$$out" ]; then echo "gofmt: these files are not formatted:"; echo "$$out"; exit 1; fi
	$(GO) mod tidy -diff
	$(GO) vet ./...
	$(GO) vet -tags vm,fleet ./...
	$(GO) run $(STATICCHECK) -tags vm,fleet ./...
	scripts/generate --check

.PHONY: same-bytes
same-bytes: ## whether BASE=COMMIT and the checkout make the same boot layer, ISO and raw disk of examples/debian
	scripts/same-bytes '$(BASE)'

.PHONY: clean
clean: ## remove build/ and the embedded assets
	rm -rf $(BUILD) assets/files/*/
