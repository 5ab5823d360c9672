//! The tasks of a host: none of them ends unnoticed.
//!
//! A part that the host cannot do without ends the process with an error when it ends by itself. Other parts begin
//! again. This file does not know what a part does.

use std::time::Duration;

use anyhow::anyhow;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

/// The pause before a part that panicked begins again.
const RESTART_PAUSE: Duration = Duration::from_secs(1);

/// Runs a part that has to last until `end` is cancelled. Its task errors when the part ends before, or panics.
pub(crate) fn spawn_part(
    parts: &mut JoinSet<anyhow::Result<()>>,
    name: &'static str,
    end: &CancellationToken,
    part: impl Future<Output = ()> + Send + 'static,
) {
    let end = end.clone();
    parts.spawn(async move {
        match AbortOnDropHandle::new(tokio::spawn(part)).await {
            Ok(()) if end.is_cancelled() => Ok(()),
            Ok(()) => Err(anyhow!("{name} ended without being told to")),
            Err(_) => Err(anyhow!("{name} panicked; the log says where")),
        }
    });
}

/// Runs a part until `end` is cancelled, and begins it again after a panic.
pub(crate) async fn keep_running<F>(name: &'static str, end: CancellationToken, mut part: impl FnMut() -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    while AbortOnDropHandle::new(tokio::spawn(part())).await.is_err() {
        tracing::error!(part = name, "a part of the host panicked and begins again");
        if end.run_until_cancelled(tokio::time::sleep(RESTART_PAUSE)).await.is_none() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    async fn outcome(end: &CancellationToken, part: impl Future<Output = ()> + Send + 'static) -> anyhow::Result<()> {
        let mut parts = JoinSet::new();
        spawn_part(&mut parts, "the worker", end, part);
        parts.join_next().await.expect("one part").expect("its task does not panic")
    }

    #[tokio::test]
    async fn a_part_that_ends_by_itself_or_panics_is_an_error_that_names_it() {
        let end = CancellationToken::new();
        for part in [false, true] {
            let err = outcome(&end, async move { assert!(!part, "planted") }).await.unwrap_err().to_string();
            assert!(err.starts_with("the worker "), "{err}");
        }
        end.cancel();
        outcome(&end, async {}).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_part_that_panicked_begins_again_until_the_end() {
        let (begun, end) = (Arc::new(AtomicU32::new(0)), CancellationToken::new());
        let (counted, ended) = (Arc::clone(&begun), end.clone());
        keep_running("maintenance", end, move || {
            let number = counted.fetch_add(1, Ordering::SeqCst);
            let ended = ended.clone();
            async move {
                assert!(number == 2, "planted");
                ended.cancel();
            }
        })
        .await;
        assert_eq!(begun.load(Ordering::SeqCst), 3);
    }
}
