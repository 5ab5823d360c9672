//! What the person looks at: the newest overview, whether it can be read, and which table the keys move through.
//!
//! Pure: the time is given, and keys and readings only change this state.

use std::time::{Duration, Instant};

use ratatui::crossterm::event::{Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use outbox_http::OverviewReport;

/// A table of the overview.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TopPanel {
    Needs,
    Types,
    Sagas,
    Plugins,
    Pods,
}

impl TopPanel {
    /// In their order on the screen.
    pub(super) const ALL: [Self; 5] = [Self::Needs, Self::Types, Self::Sagas, Self::Plugins, Self::Pods];

    /// Whether there is anything to show. Types, plugins and processes are always shown, also when there are none.
    pub(super) fn is_shown(self, report: &OverviewReport) -> bool {
        match self {
            Self::Needs => !report.needs.is_empty(),
            Self::Sagas => !report.sagas.is_empty(),
            Self::Types | Self::Plugins | Self::Pods => true,
        }
    }
}

/// Why the overview cannot be read, and since when.
#[derive(Clone, Debug)]
pub(super) struct Unreadable {
    pub(super) since: Instant,
    pub(super) why: String,
}

/// What the person looks at.
#[derive(Clone, Debug)]
pub(super) struct TopView {
    /// Where the overview comes from, in words.
    pub(super) source: String,
    pub(super) interval: Duration,
    pub(super) report: Option<OverviewReport>,
    pub(super) unreadable: Option<Unreadable>,
    pub(super) is_paused: bool,
    pub(super) has_help: bool,
    pub(super) focus: TopPanel,
    /// The lines above the first one that is shown of the table that keys move through.
    pub(super) scroll: usize,
}

/// What follows from a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AfterKey {
    GoOn,
    Quit,
}

impl TopView {
    pub(super) fn new(source: String, interval: Duration) -> Self {
        Self {
            source,
            interval,
            report: None,
            unreadable: None,
            is_paused: false,
            has_help: false,
            focus: TopPanel::Needs,
            scroll: 0,
        }
    }

    /// Takes a reading. One that failed leaves the last overview where it is.
    pub(super) fn learn(&mut self, reading: Result<OverviewReport, String>, now: Instant) {
        match reading {
            Ok(report) => (self.report, self.unreadable) = (Some(report), None),
            Err(why) => {
                let since = self.unreadable.as_ref().map_or(now, |known| known.since);
                self.unreadable = Some(Unreadable { since, why });
            }
        }
        self.keep_focus();
    }

    /// Takes an event of the terminal.
    pub(super) fn take(&mut self, event: &Event) -> AfterKey {
        match event {
            Event::Key(key) if key.kind != KeyEventKind::Release => self.press(*key),
            _ => AfterKey::GoOn,
        }
    }

    fn press(&mut self, key: KeyEvent) -> AfterKey {
        match key.code {
            KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => return AfterKey::Quit,
            KeyCode::Char('q') => return AfterKey::Quit,
            KeyCode::Esc if !self.has_help => return AfterKey::Quit,
            KeyCode::Esc => self.has_help = false,
            KeyCode::Char('?' | 'h') => self.has_help = !self.has_help,
            KeyCode::Char('p' | ' ') => self.is_paused = !self.is_paused,
            KeyCode::Tab | KeyCode::Right => self.turn(1),
            KeyCode::BackTab | KeyCode::Left => self.turn(TopPanel::ALL.len() - 1),
            KeyCode::Up | KeyCode::Char('k') => self.scroll = self.scroll.saturating_sub(1),
            KeyCode::Down | KeyCode::Char('j') => self.scroll = self.scroll.saturating_add(1),
            KeyCode::PageUp => self.scroll = self.scroll.saturating_sub(10),
            KeyCode::PageDown => self.scroll = self.scroll.saturating_add(10),
            KeyCode::Home => self.scroll = 0,
            KeyCode::End => self.scroll = usize::MAX,
            _ => {}
        }
        AfterKey::GoOn
    }

    /// Moves on by so many tables, and past those that are not shown.
    fn turn(&mut self, by: usize) {
        let Some(report) = &self.report else { return };
        let here = TopPanel::ALL.iter().position(|panel| *panel == self.focus).unwrap_or(0);
        let mut order = (1..=TopPanel::ALL.len()).map(|step| TopPanel::ALL[(here + step * by) % TopPanel::ALL.len()]);
        if let Some(next) = order.find(|panel| panel.is_shown(report)) {
            (self.focus, self.scroll) = (next, 0);
        }
    }

    /// A table that has gone loses the keys.
    fn keep_focus(&mut self) {
        if self.report.as_ref().is_some_and(|report| !self.focus.is_shown(report)) {
            self.turn(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(report: OverviewReport) -> TopView {
        let mut view = TopView::new("outbox.sqlite".to_owned(), Duration::from_secs(2));
        view.learn(Ok(report), Instant::now());
        view
    }

    fn press(view: &mut TopView, code: KeyCode) -> AfterKey {
        view.take(&Event::Key(KeyEvent::new(code, KeyModifiers::NONE)))
    }

    #[test]
    fn q_escape_and_control_c_quit_and_escape_leaves_the_help_first() {
        let mut view = view(OverviewReport::default());
        for code in [KeyCode::Char('q'), KeyCode::Esc] {
            assert_eq!(press(&mut view, code), AfterKey::Quit);
        }
        let interrupt = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
        assert_eq!(view.take(&Event::Key(interrupt)), AfterKey::Quit);
        assert_eq!((press(&mut view, KeyCode::Char('?')), view.has_help), (AfterKey::GoOn, true));
        assert_eq!((press(&mut view, KeyCode::Esc), view.has_help), (AfterKey::GoOn, false));
    }

    #[test]
    fn tab_moves_through_the_tables_that_have_something_to_show() {
        let mut view = view(OverviewReport::default());
        let mut passed = vec![view.focus];
        for _ in 0..3 {
            press(&mut view, KeyCode::Tab);
            passed.push(view.focus);
        }
        assert_eq!(passed, [TopPanel::Types, TopPanel::Plugins, TopPanel::Pods, TopPanel::Types]);
        press(&mut view, KeyCode::BackTab);
        assert_eq!(view.focus, TopPanel::Pods);
    }

    #[test]
    fn a_failure_keeps_the_last_overview_and_the_time_of_the_first_failure() {
        let begun = Instant::now();
        let mut view = view(OverviewReport { opening: "Nothing needs you".to_owned(), ..OverviewReport::default() });
        view.learn(Err("no route to the host".to_owned()), begun);
        view.learn(Err("refused".to_owned()), begun + Duration::from_secs(9));
        let unreadable = view.unreadable.clone().unwrap();
        assert_eq!((unreadable.since, unreadable.why.as_str()), (begun, "refused"));
        assert_eq!(view.report.as_ref().unwrap().opening, "Nothing needs you");
        view.learn(Ok(OverviewReport::default()), begun);
        assert!(view.unreadable.is_none());
    }

    #[test]
    fn p_pauses_and_goes_on() {
        let mut view = view(OverviewReport::default());
        press(&mut view, KeyCode::Char('p'));
        assert!(view.is_paused);
        press(&mut view, KeyCode::Char('p'));
        assert!(!view.is_paused);
    }
}
