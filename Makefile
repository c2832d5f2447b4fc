# `make` alone lists the targets.

# Debian keeps ngircd where only root's PATH looks; the Go archive unpacks to /usr/local/go.
export PATH := $(PATH):/usr/local/go/bin:/usr/local/sbin:/usr/sbin
# libzmq is reached through cgo.
export CGO_ENABLED := 1
# Nothing built here is released, and a version stamp fails where git distrusts the clone's owner.
export GOFLAGS += -buildvcs=false

# Names that scripts/deps.sh knows.
BUILD   := cc pkg-config libzmq certificates
SERVERS := redis-server ngircd etcd postgres pgbouncer
# Whose completion is tested.
SERVERS += bash zsh fish
ifeq ($(shell uname),Linux)
SERVERS += ip nft
endif

# "." and every directory below it that has a go.mod.
MODULES := $(patsubst ./%,%,$(sort $(patsubst %/go.mod,%,$(shell find . -name go.mod))))

# Run by version, so that no module here depends on a linter.
GOFUMPT     := go run mvdan.cc/gofumpt@v0.12.0
STATICCHECK := go run honnef.co/go/tools/cmd/staticcheck@v0.8.2
GOVULNCHECK := go run golang.org/x/vuln/cmd/govulncheck@v1.9.0
APIDIFF     := go run golang.org/x/exp/cmd/apidiff@v0.0.0-20261113113407-e3970619a1a4
BENCHSTAT   := go run golang.org/x/perf/cmd/benchstat@v0.0.0-20260908200009-22c9c6c9d4da
GOLICENSES  := go run github.com/google/go-licenses@v1.6.0

# Inputs for each fuzz target. Not a time: when that is up, go test can take its own deadline for a
# failure.
FUZZTIME := 1500000x
FUZZ     := .@FuzzHold ./internal/redisconn@FuzzNews ./internal/zmq@FuzzEndpoint ./internal/wire@FuzzReader ./internal/wire@FuzzHello

.PHONY: help demo demo-exchange demo-devices test test-long lint fuzz vuln faults attacks bench scale compare api licences pictures deps-build deps-test deps-browser deps-promtool $(MODULES:%=test/%) $(MODULES:%=lint/%) \
	$(FUZZ:%=fuzz/%) $(MODULES:%=vuln/%)

help:
	@echo 'make demo   run the IRC cluster in this terminal; ARGS=-script plays the story by itself'
	@echo 'make demo-exchange one session with an exchange, and orders with answers; ARGS=-script likewise'
	@echo 'make demo-devices a thousand devices spread over workers that come and go; ARGS=-script likewise'
	@echo 'make test   test every module with the race detector; make test/examples/irc tests one'
	@echo 'make test-long the tests that take long: more faults and attacks'
	@echo 'make lint   format, vet, staticcheck and go.mod of every module'
	@echo 'make fuzz   a minute of every fuzz target; FUZZTIME=50000x for less'
	@echo 'make vuln   known vulnerabilities of every module; asks a database on the network'
	@echo 'make faults 100 rounds of every fault, with figures in docs/faults.md; two hours'
	@echo 'make attacks what a stranger can do, with figures in docs/security.md; five minutes'
	@echo 'make bench  gone beside plain ZeroMQ and other libraries, with figures in docs/benchmarks.md; ten minutes; ARGS=-h tells of less'
	@echo 'make scale  clusters with many ids, measured and simulated, with figures in docs/scale.md; three minutes; ARGS=-small for a tenth'
	@echo 'make compare sends and the lock beside the last release, or SINCE=COMMIT; three minutes'
	@echo 'make api    what has changed in the API since the last release'
	@echo 'make licences the licences of all dependencies, one a line'
	@echo 'make pictures docs/path.svg, the picture of the README, and the page, as docs/page has it'
	@echo 'Each first installs what it needs and does not find.'

demo: deps-build
	go build -C examples/irc -o ../../bin/irc .
	@exec bin/irc $(ARGS)

demo-exchange: deps-build
	go build -C examples/exchange -o ../../bin/exchange .
	@exec bin/exchange $(ARGS)

demo-devices: deps-build
	go build -C examples/devices -o ../../bin/devices .
	@exec bin/devices $(ARGS)

# Never from the cache: it cannot see that libzmq or redis-server changed. Most tests wait more than
# they work, so more of them run at a time than there are processors; with many more, they would wait
# for each other.
GOTEST := go test -race -count=1 -timeout=20m -parallel=4

# All tests but those that are called long, one module after the other: tests that are in each other's
# way say little.
test: $(MODULES:%=test/%)
$(MODULES:%=test/%): test/%: deps-test
	cd $* && $(GOTEST) -skip '^TestLong' ./...
test/gonehttp: deps-browser
test/goneprom: deps-promtool

# What plays seeds: some in make test, more with the race detector here, most without.
SEEDED    := TestPlannedEnds|TestALeaseThatEnds|TestAHolderBehindAPartition|TestACrashCosts|TestNoResultIsALie
SEEDED    := $(SEEDED)|TestAFrameIsTaken|TestEveryFrameIsTaken|TestABatchIsReceivedUpTo|TestEachMessageLeaves|TestEachRequestHasOneEnd
SIMULATED := ./internal/link ./internal/mailbox ./internal/stream

test-long: deps-test
	cd faults && $(GOTEST) -run '^TestLong' -skip ManyIDs ./...
	cd faults && $(GOTEST) -run '^TestLong.*ManyIDs' ./...
	cd bench && go test -count=1 -timeout=20m -run '^TestLong' ./...
	cd pglock && go test -count=1 -timeout=20m -run '^TestLongExtends' ./...
	$(GOTEST) -run '^TestLong' .
	GONE_SEEDS=40 $(GOTEST) -run '^($(SEEDED))' .
	GONE_SEEDS=200 $(GOTEST) -run '^($(SEEDED))' $(SIMULATED)
	GONE_SEEDS=100 go test -count=1 -timeout=20m -run '^($(SEEDED))' .
	GONE_SEEDS=500 go test -count=1 -timeout=20m -run '^($(SEEDED))' $(SIMULATED)

# The long version of what `make test/faults` plays a few rounds of.
faults: deps-test
	cd faults && go run . -rounds 100 -out ../docs/faults.md $(ARGS)
	cd faults && go run . -rounds 10 -curve -out ../docs/faults-curve.md $(ARGS)

attacks: deps-test
	cd faults && go run . -attacks -out ../docs/security.md $(ARGS)

bench: deps-test
	cd bench && go run . -out ../docs/benchmarks.md $(ARGS)

scale: deps-test
	cd bench && go run . -scale -out ../docs/scale.md $(ARGS)

lint: $(MODULES:%=lint/%)
	@unformatted=$$($(GOFUMPT) -l .) && test -z "$$unformatted" || \
		{ echo "gofumpt would change: $$unformatted"; exit 1; }
$(MODULES:%=lint/%): lint/%: deps-build
	cd $* && go vet ./... && $(STATICCHECK) ./... && go mod tidy -diff && go mod verify

fuzz: $(FUZZ:%=fuzz/%)
$(FUZZ:%=fuzz/%): fuzz/%: deps-test
	go test -run '^$$' -fuzz '^$(lastword $(subst @, ,$*))$$' -fuzztime $(FUZZTIME) $(firstword $(subst @, ,$*))

vuln: $(MODULES:%=vuln/%)
$(MODULES:%=vuln/%): vuln/%: deps-build
	cd $* && $(GOVULNCHECK) ./...

compare: deps-test
	@BENCHSTAT='$(BENCHSTAT)' scripts/compare.sh

api: deps-build
	@APIDIFF='$(APIDIFF)' scripts/api.sh

# What it can't tell it calls Unknown. It looks for GOROOT where the standard library is.
licences: deps-build
	@for m in $(MODULES); do \
		(cd $$m && GOROOT=$$(go env GOROOT) $(GOLICENSES) report ./... --ignore github.com/Diggs/go-one 2>/dev/null) || exit; \
	done | cut -d, -f1,3 | sort -u

deps-build:
	@sh scripts/deps.sh $(BUILD)

deps-browser:
	@sh scripts/deps.sh chromium

deps-promtool:
	@sh scripts/deps.sh promtool

pictures: deps-test deps-browser
	cd docs && go run ./draw > path.svg
	cd gonehttp && go test -count=1 -run 'TestThePageOf|TestTheStory|TestDrain' . -screenshots ../docs/page

deps-test:
	@sh scripts/deps.sh $(BUILD) $(SERVERS)
