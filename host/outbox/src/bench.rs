//! `bench`: measures the host on this machine, and the limits of its disk and its database engine for comparison.
//!
//! Each round measures every figure in turn, so that a disturbance of the machine affects all of them alike. The ratios
//! are what counts. The stores are temporary; the bench changes no database of the user.

mod drain;
mod engine;
mod enqueue;
mod environment;
mod figures;
mod http;
mod idle;
mod limits;
mod native_handler;
mod postgres;
mod process;
mod report;
mod sandbox;
mod sqlite;
mod traces;

use std::path::PathBuf;
use std::process::ExitCode;
use std::rc::Rc;
use std::sync::Arc;

use clap::{Args, value_parser};

use outbox_core::Handler;
use outbox_item::{NewItem, Status};

use crate::bench::drain::{DRAIN_SCENARIOS, drain};
use crate::bench::engine::{BenchStore, KeyOrder, Preload, TYPE, items};
use crate::bench::enqueue::ENQUEUE_SCENARIOS;
use crate::bench::environment::BenchEnvironment;
use crate::bench::figures::{Rate, Samples, float, milliseconds, percentile};
use crate::bench::http::Receiver;
use crate::bench::native_handler::NativeHandler;
use crate::bench::report::BenchReport;
use crate::bench::sandbox::{Sandbox, webhook_file};
use crate::bench::traces::SentTraces;
use crate::cli::context::Context;
use crate::cli::progress::ProgressBar;
use crate::config::Config;

pub(crate) use crate::bench::environment::BenchPlace;

/// Rows of a preloaded store.
const MILLION: u32 = 1_000_000;
/// Turns of each scenario of enqueueing in a round.
const TURNS: u32 = 8;
/// A turn enqueues the number of items of a measurement divided by this.
const TURN_DIVISOR: u32 = 4;

/// Measure this machine: what the disk and SQLite, or a server, allow, and what the outbox makes of it
#[derive(Debug, Args)]
pub(crate) struct BenchArgs {
    /// Leave out what needs a million rows
    #[arg(long)]
    quick: bool,
    /// How often each figure is taken
    #[arg(long, default_value_t = 5, value_name = "COUNT", value_parser = value_parser!(u32).range(1..=1_000))]
    rounds: u32,
    /// Items of one measurement
    #[arg(long, default_value_t = 20_000, value_name = "COUNT", value_parser = value_parser!(u32).range(100..=1_000_000))]
    items: u32,
    /// Take only figures whose names begin so, and the limits
    #[arg(long, value_name = "NAME")]
    only: Option<String>,
    /// Drain with this component too, which must need no grants; the figure is drain.handler
    #[arg(long, value_name = "FILE")]
    handler: Option<PathBuf>,
    /// Where the bench makes its stores; decided by `--db`.
    #[arg(skip)]
    pub(crate) place: BenchPlace,
}

pub(crate) async fn run(args: BenchArgs, context: &Context) -> anyhow::Result<ExitCode> {
    let rounds = args.rounds;
    let environment = BenchEnvironment::open(args.place, &context.config).await?;
    let measured = measure(args, &environment, context).await;
    // Clean up also after an error.
    environment.engine().clean_up().await?;
    let samples = measured?;
    let report = BenchReport::new(rounds, &samples, environment.engine().targets());
    context.output.emit(&report, || report.page())?;
    Ok(ExitCode::SUCCESS)
}

async fn measure(args: BenchArgs, environment: &BenchEnvironment, context: &Context) -> anyhow::Result<Samples> {
    let rounds = args.rounds;
    let mut progress = ProgressBar::new("round", rounds.into());
    let mut bench = BenchRun::prepare(args, environment, context).await?;
    for round in 0..rounds {
        progress.show(round.into());
        bench.round().await?;
    }
    progress.show(rounds.into());
    progress.finish();
    Ok(bench.samples)
}

/// The state that all rounds share.
struct BenchRun<'a> {
    args: BenchArgs,
    config: &'a Config,
    environment: &'a BenchEnvironment,
    noop: Sandbox,
    handler: Option<Sandbox>,
    webhook: Option<(Sandbox, Receiver)>,
    preloaded: Option<PreloadedStores>,
    started_with: Option<u64>,
    /// The samples of the present round.
    disk: DiskSamples,
    samples: Samples,
}

/// Measurements of the disk. Its speed changes from second to second, so each round measures it several times.
#[derive(Default)]
struct DiskSamples {
    /// Milliseconds per small durable write.
    fsyncs: Vec<f64>,
    /// Commits per second.
    commits: Vec<f64>,
}

/// Stores that hold a million rows already.
struct PreloadedStores {
    done: Rc<dyn BenchStore>,
    /// DONE rows with random keys, for items with random keys.
    random: Rc<dyn BenchStore>,
    pending: Rc<dyn BenchStore>,
}

impl<'a> BenchRun<'a> {
    async fn prepare(args: BenchArgs, environment: &'a BenchEnvironment, context: &'a Context) -> anyhow::Result<Self> {
        let started_with = process::resident();
        let config = &context.config;
        let noop = Sandbox::noop(environment, config)?;
        let handler =
            args.handler.as_ref().map(|file| Sandbox::from_file(environment, config, file, None)).transpose()?;
        let webhook = match webhook_file(config) {
            Some(file) => Some(webhook(environment, config, &file).await?),
            None => left_out(context),
        };
        let preloaded = if args.quick { None } else { Some(PreloadedStores::make(environment).await?) };
        let (disk, samples) = (DiskSamples::default(), Samples::default());
        Ok(Self { args, config, environment, noop, handler, webhook, preloaded, started_with, disk, samples })
    }

    /// Whether `--only` includes the figures of a name.
    fn includes(&self, name: &str) -> bool {
        self.args.only.as_deref().is_none_or(|only| name.starts_with(only) || only.starts_with(name))
    }

    async fn round(&mut self) -> anyhow::Result<()> {
        self.measure_disk().await?;
        self.idle().await?;
        self.limits().await?;
        self.loading().await?;
        self.memory().await?;
        self.drains().await?;
        self.measure_disk().await?;
        self.enqueues(KeyOrder::Timed).await?;
        self.measure_disk().await?;
        self.enqueues(KeyOrder::Random).await?;
        self.measure_disk().await?;
        let disk = std::mem::take(&mut self.disk);
        self.samples.add("fsync", percentile(disk.fsyncs, 0.5).unwrap_or_default());
        self.samples.add("limit.commits", percentile(disk.commits, 0.5).unwrap_or_default());
        if let Some(peak) = process::peak() {
            self.samples.add("memory.peak", float(peak));
        }
        Ok(())
    }

    /// Runs first in a round, before anything leaves the disk with work to do.
    async fn idle(&mut self) -> anyhow::Result<()> {
        if !self.includes("latency") && !self.includes("idle") {
            return Ok(());
        }
        let (bench_store, served) = (self.environment.new_store().await?, self.noop.start().await?);
        idle::idle(&*bench_store, &served.handler, self.config, self.args.items, &mut self.samples).await?;
        let bench_store = self.environment.new_store().await?;
        idle::shared(&*bench_store, &served.handler, self.config, self.args.items, &mut self.samples).await
    }

    async fn measure_disk(&mut self) -> anyhow::Result<()> {
        self.disk.fsyncs.extend(limits::fsync(self.environment).await?);
        self.disk.commits.push(limits::commits(self.environment, self.args.items).await?);
        Ok(())
    }

    async fn limits(&mut self) -> anyhow::Result<()> {
        self.samples.add("limit.bare_bulk", limits::bare_bulk(self.environment, self.args.items).await?);
        limits::store(self.environment, self.args.items, &mut self.samples).await?;
        limits::large(self.environment, self.args.items, &mut self.samples).await?;
        limits::old_schema(self.environment, self.args.items, &mut self.samples).await
    }

    /// Measures loading a component: with compilation, and from compiled code.
    async fn loading(&mut self) -> anyhow::Result<()> {
        let sandbox = self.webhook.as_ref().map_or(&self.noop, |(sandbox, _)| sandbox);
        sandbox.forget()?;
        self.samples.add("load.compiled", milliseconds(sandbox.load_time().await?));
        self.samples.add("load.cached", milliseconds(sandbox.load_time().await?));
        Ok(())
    }

    async fn memory(&mut self) -> anyhow::Result<()> {
        if let Some(bytes) = self.started_with {
            self.samples.add("memory.start", float(bytes));
        }
        let Some((sandbox, receiver)) = self.webhook.as_ref().filter(|_| self.includes("memory")) else {
            return Ok(());
        };
        let handler = sandbox.start().await?.handler;
        idle::memory_per_attempt(
            &*self.environment.new_store().await?,
            &handler,
            receiver,
            self.config,
            &mut self.samples,
        )
        .await
    }

    async fn drains(&mut self) -> anyhow::Result<()> {
        let noop = self.noop.start().await?.handler;
        let count = self.args.items;
        let plain = || items(TYPE, KeyOrder::Timed, count);
        self.drain("drain.native", Preload::Nothing, &NativeHandler::handler(), plain).await?;
        for scenario in DRAIN_SCENARIOS {
            self.drain(scenario.name, scenario.preload, &noop, || scenario.items(count)).await?;
        }
        self.drain_traced("drain.sandbox_traced", &noop, plain).await?;
        if let Some(sandbox) = &self.handler {
            let served = sandbox.start().await?;
            let items = || items(&served.item_type, KeyOrder::Timed, count);
            self.drain("drain.handler", Preload::Nothing, &served.handler, items).await?;
        }
        if let Some((sandbox, _)) = &self.webhook {
            let served = sandbox.start().await?;
            let items = || items(&served.item_type, KeyOrder::Timed, count);
            self.drain("drain.webhook", Preload::Nothing, &served.handler, items).await?;
            self.drain_traced("drain.webhook_traced", &served.handler, items).await?;
        }
        Ok(())
    }

    /// The same with a span for everything that is done, each of which a collector on this machine takes.
    async fn drain_traced(
        &mut self,
        name: &'static str,
        handler: &Arc<dyn Handler>,
        items: impl FnOnce() -> Vec<NewItem>,
    ) -> anyhow::Result<()> {
        let Some(bench_store) = self.store_for(name, Preload::Nothing).await? else { return Ok(()) };
        let traces = SentTraces::start().await?;
        let rate = drain(&*bench_store, handler, self.config, traces.spans(), items()).await?;
        self.samples.add(name, rate);
        traces.end().await;
        Ok(())
    }

    async fn drain(
        &mut self,
        name: &'static str,
        preload: Preload,
        handler: &Arc<dyn Handler>,
        items: impl FnOnce() -> Vec<NewItem>,
    ) -> anyhow::Result<()> {
        let Some(bench_store) = self.store_for(name, preload).await? else { return Ok(()) };
        self.samples.add(name, drain(&*bench_store, handler, self.config, None, items()).await?);
        Ok(())
    }

    /// Runs the scenarios in short turns, so that all of them meet the disk in the same state: its speed changes within
    /// half a second.
    async fn enqueues(&mut self, keys: KeyOrder) -> anyhow::Result<()> {
        let mut taken = Vec::new();
        for scenario in ENQUEUE_SCENARIOS.iter().filter(|scenario| scenario.keys == keys) {
            if let Some(bench_store) = self.store_for(scenario.name, scenario.preload).await? {
                taken.push((scenario, bench_store, Rate::default()));
            }
        }
        for _ in 0..TURNS {
            for (scenario, bench_store, rate) in &mut taken {
                *rate += scenario.take(&**bench_store, self.args.items / TURN_DIVISOR).await?;
            }
        }
        for (scenario, _, rate) in taken {
            self.samples.add(scenario.name, rate.per_second());
        }
        Ok(())
    }

    /// The store for a figure; `None` when the figure is not measured.
    async fn store_for(&self, name: &str, preload: Preload) -> anyhow::Result<Option<Rc<dyn BenchStore>>> {
        if !self.includes(name) {
            return Ok(None);
        }
        let preloaded = self.preloaded.as_ref();
        Ok(match preload {
            Preload::Nothing => Some(self.environment.new_store().await?.into()),
            Preload::Done => preloaded.map(|preloaded| Rc::clone(&preloaded.done)),
            Preload::Random => preloaded.map(|preloaded| Rc::clone(&preloaded.random)),
            Preload::Pending => preloaded.map(|preloaded| Rc::clone(&preloaded.pending)),
        })
    }
}

impl PreloadedStores {
    async fn make(environment: &BenchEnvironment) -> anyhow::Result<Self> {
        Ok(Self {
            done: environment.preloaded_store(Status::Done, KeyOrder::Timed, MILLION).await?.into(),
            random: environment.preloaded_store(Status::Done, KeyOrder::Random, MILLION).await?.into(),
            pending: environment.preloaded_store(Status::Pending, KeyOrder::Timed, MILLION).await?.into(),
        })
    }
}

async fn webhook(
    environment: &BenchEnvironment,
    config: &Config,
    file: &std::path::Path,
) -> anyhow::Result<(Sandbox, Receiver)> {
    let receiver = Receiver::start().await?;
    let url = format!("http://{}", receiver.address);
    let manifest =
        format!("[[grant.http]]\norigin = '{url}'\nmethods = ['POST']\npath = '/*'\n[config]\nurl = '{url}/'\n");
    Ok((Sandbox::from_file(environment, config, file, Some(&manifest))?, receiver))
}

fn left_out<T>(context: &Context) -> Option<T> {
    context.output.hint("drain.webhook is left out: the plugin folder (OUTBOX_PLUGINS) has no webhook.wasm");
    None
}
