//! The terminal: takes it over, draws the screen, follows keys and readings, and gives it back.
//!
//! It is given back at every end: a key, an error, a panic, and the signals that ask a process to end.

use std::io;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use ratatui::crossterm::event::{self, Event};
use ratatui::text::Text;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, watch};

use crate::cli::top::screen::{TopScreen, screen};
use crate::cli::top::source::{OverviewSource, follow};
use crate::cli::top::theme::Theme;
use crate::cli::top::view::{AfterKey, TopView};

/// How often the screen is drawn while nothing comes: the time since the last reading grows.
const REDRAWN_EVERY: Duration = Duration::from_secs(1);

/// Gives the terminal back when it is dropped. A panic gives it back by the hook that ratatui sets.
struct Restored;

impl Drop for Restored {
    fn drop(&mut self) {
        // A terminal that is gone needs nothing.
        ratatui::try_restore().ok();
    }
}

/// The signals that ask a process to end.
struct Ends([Signal; 3]);

impl Ends {
    fn follow() -> io::Result<Self> {
        let [terminate, interrupt, hangup] =
            [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup()].map(signal);
        Ok(Self([terminate?, interrupt?, hangup?]))
    }

    async fn next(&mut self) {
        let [terminate, interrupt, hangup] = &mut self.0;
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            _ = hangup.recv() => {}
        }
    }
}

/// Shows the overview until the person or the system ends it.
pub(super) async fn run(mut view: TopView, theme: Theme, source: OverviewSource) -> anyhow::Result<()> {
    let mut ends = Ends::follow().context("listening for signals")?;
    let _restored = Restored;
    let mut terminal = ratatui::try_init().context("taking over the terminal")?;
    let (pause, paused) = watch::channel(false);
    let mut readings = follow(source, view.interval, paused);
    let mut events = follow_events().context("starting the thread that reads keys")?;
    let mut redraw = tokio::time::interval(REDRAWN_EVERY);
    loop {
        terminal.draw(|frame| {
            let area = frame.area();
            let TopScreen { lines, scroll_max } = screen(&view, theme, (area.width, area.height), Instant::now());
            view.scroll = view.scroll.min(scroll_max);
            frame.render_widget(Text::from(lines), area);
        })?;
        tokio::select! {
            event = events.recv() => match event {
                Some(event) if view.take(&event) == AfterKey::GoOn => {
                    pause.send_if_modified(|known| std::mem::replace(known, view.is_paused) != view.is_paused);
                }
                _ => return Ok(()),
            },
            reading = readings.recv() => match reading {
                Some(reading) => view.learn(reading, Instant::now()),
                None => anyhow::bail!("the overview is not read any more"),
            },
            _ = redraw.tick() => {}
            () = ends.next() => return Ok(()),
        }
    }
}

/// The events of the terminal. They end when it cannot be read. The thread ends with the process: nothing wakes it.
fn follow_events() -> io::Result<mpsc::UnboundedReceiver<Event>> {
    let (sender, receiver) = mpsc::unbounded_channel();
    let read = move || {
        while let Ok(event) = event::read() {
            if sender.send(event).is_err() {
                return;
            }
        }
    };
    std::thread::Builder::new().name("outbox-keys".to_owned()).spawn(read)?;
    Ok(receiver)
}
