//! `signals`: prints the signals of sagas, and with `--follow` also new ones as they come.

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;

use outbox_store::{Inspect, Signal, SignalSeq};

use crate::cli::context::Context;
use crate::cli::output::{Times, clean, table};

/// Signals per read with `--follow`.
const PAGE_SIZE: u32 = 500;

/// The pause between two reads with `--follow`. The command polls, because a commit that writes a signal need not make
/// work available, and then the store notifies no subscriber.
const POLL_INTERVAL: Duration = Duration::from_millis(200);

#[derive(Debug, Args)]
pub(crate) struct SignalsArgs {
    /// Only signals after this number
    #[arg(long, default_value_t = SignalSeq::START, value_name = "SEQ")]
    after: SignalSeq,
    /// The maximum number of signals
    #[arg(long, default_value_t = 100, value_name = "COUNT", conflicts_with = "follow")]
    limit: u32,
    /// Go on printing as signals come
    #[arg(long, short)]
    follow: bool,
}

pub(crate) async fn run(args: SignalsArgs, context: &Context) -> anyhow::Result<ExitCode> {
    let store = context.existing_store().await?;
    if args.follow {
        return follow(&*store, args.after, context).await;
    }
    let signals = store.signals(args.after, args.limit).await?;
    let now = store.now().await?;
    context.output.emit(&signals, || rows(&signals, context.output.times(now)))?;
    if let Some(last) = signals.last().filter(|_| signals.len() == args.limit as usize) {
        context.output.hint(&format!("There may be more: add --after {}", last.seq));
    }
    Ok(ExitCode::SUCCESS)
}

/// Prints signals until the process is stopped, or until the reader closes the pipe.
async fn follow(store: &dyn Inspect, mut after: SignalSeq, context: &Context) -> anyhow::Result<ExitCode> {
    loop {
        let signals = store.signals(after, PAGE_SIZE).await?;
        for signal in &signals {
            context.output.emit_line(signal, || line(signal))?;
            after = signal.seq;
        }
        if signals.is_empty() {
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }
}

fn line(signal: &Signal) -> String {
    clean(&format!("{} {} {} {}", signal.seq, signal.signal, signal.pod, signal.data))
}

fn rows(signals: &[Signal], times: Times) -> String {
    if signals.is_empty() {
        return "No signals.".to_owned();
    }
    let row = |signal: &Signal| {
        let when = times.show(signal.ts);
        [signal.seq.to_string(), when, signal.signal.clone(), signal.pod.clone(), signal.data.to_string()]
    };
    table(["SEQ", "WHEN", "SIGNAL", "POD", "DATA"], signals.iter().map(row))
}
