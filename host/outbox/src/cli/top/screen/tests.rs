//! The screen as a person sees it, drawn on a terminal that is not there.

use std::time::Duration;

use outbox_http::{Flow, HourFigures, Need, PluginRow, PodRow, Since, TypeRow, TypeState};
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::crossterm::event::{Event, KeyCode, KeyEvent, KeyModifiers};
use ratatui::style::Color;
use ratatui::text::Text;

use super::*;

fn words(text: &str) -> String {
    text.to_owned()
}

fn since(ago: &str) -> Since {
    Since { at: Millis::new(1_800_000_000_000), ago: words(ago) }
}

fn row(name: &str, class: &str, state: &str) -> TypeRow {
    TypeRow {
        name: words(name),
        state: TypeState { class: words(class), text: words(state), about: String::new() },
        done_each_minute: (0..60).collect(),
        waiting: words("12"),
        retrying: 2,
        claimed: words("3"),
        dead: 1,
        done_rate: words("8.4 /s"),
        failing: words("0.4 %"),
        oldest: words("4 min"),
        p95: words("90 ms"),
    }
}

fn report() -> OverviewReport {
    let need = Need {
        level: words("urgent"),
        what: words("The key cust-9 is blocked; 3 items wait behind item 58"),
        cause: words("item 58 is dead-lettered and blocks the key: the receiver answered 422"),
        since: Some(since("3 min ago")),
        path: words("cockpit/items/58"),
        click: words("Decide"),
        command: words("outbox replay 58, or outbox unblock 'cust-9' to go on without it"),
    };
    OverviewReport {
        read_at: Millis::new(1_800_000_000_000),
        opening: words("One thing needs you"),
        otherwise: words("Everything else is moving: 8.4 /s done."),
        needs: vec![need],
        flow: Flow {
            waiting: words("12"),
            oldest: words("4 min"),
            retrying: words("2"),
            claimed: words("3"),
            done_rate: words("8.4 /s"),
            done: words("1,284"),
            retry_rate: words("0 /s"),
            dead: words("1"),
            dead_lately: words("1"),
            p95: words("90 ms"),
        },
        hour: HourFigures {
            done: (0..60).collect(),
            done_in_all: words("1,284"),
            most_done: words("59"),
            p95_ms: vec![Some(90); 60],
            latency: words("p50 31 ms · p95 90 ms · p99 1.4 s"),
            waiting: vec![1; 60],
            most_waiting: words("12"),
            retries: vec![0; 60],
            due: words("2 due in the next hour"),
            ..HourFigures::default()
        },
        types: vec![row("mail", "done", "serving"), row("webhook", "off", "paused")],
        plugins: vec![PluginRow {
            name: words("mailer"),
            class: words("done"),
            state: words("active"),
            digest: words("9f2c41d0"),
            pods: 2,
        }],
        pods: vec![PodRow {
            name: words("edge-1"),
            role: words("edge"),
            class: words("done"),
            state: words("ready"),
            seen: since("now"),
        }],
        ..OverviewReport::default()
    }
}

fn view(report: OverviewReport) -> TopView {
    let mut view = TopView::new(words("outbox.sqlite"), Duration::from_secs(2));
    view.learn(Ok(report), Instant::now());
    view
}

/// What a terminal of this size shows, line by line.
fn drawn(view: &TopView, width: u16, height: u16) -> Vec<String> {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    let shown = screen(view, Theme { is_coloured: true }, (width, height), Instant::now());
    assert_eq!(shown.lines.len(), usize::from(height));
    terminal.draw(|frame| frame.render_widget(Text::from(shown.lines), frame.area())).unwrap();
    let buffer = terminal.backend().buffer();
    let line = |y| (0..width).map(|x| buffer[(x, y)].symbol()).collect::<String>().trim_end().to_owned();
    (0..height).map(line).collect()
}

fn press(view: &mut TopView, code: KeyCode) {
    view.take(&Event::Key(KeyEvent::new(code, KeyModifiers::NONE)));
}

/// Asserts that each sentence is on the screen, perhaps broken between two words.
#[track_caller]
fn shows(lines: &[String], sentences: &[&str]) {
    let whole = lines.join(" ");
    for sentence in sentences {
        assert!(whole.contains(sentence), "{sentence}:\n{}", lines.join("\n"));
    }
}

#[test]
fn a_small_terminal_shows_everything_that_matters() {
    let lines = drawn(&view(report()), 80, 24);
    assert_eq!(lines[0], "One thing needs you.");
    assert_eq!(lines[1], "Everything else is moving: 8.4 /s done. Read at 08:00:00 UTC.");
    shows(
        &lines,
        &[
            "PENDING         12  oldest 4 min · 2 wait for a retry",
            "DONE        8.4 /s  1,284 in all · p95 90 ms",
            "Throughput ▁▁▁▁▂▂▂▂",
            "1,284 done, at most 59 in a minute",
            "p50 31 ms · p95 90 ms · p99 1.4 s",
            "What needs you (1)",
            "! The key cust-9 is blocked; 3 items wait behind item 58, 3 min ago",
            "  item 58 is dead-lettered and blocks the key: the receiver answered 422",
            "  → outbox replay 58, or outbox unblock 'cust-9' to go on without it",
            "webhook  paused",
            "mailer  active  9f2c41d0          2",
            "edge-1   ready  now   edge",
        ],
    );
    assert!(
        lines[23].starts_with("q quit  p pause") && lines[23].ends_with("outbox.sqlite, every 2s"),
        "{}",
        lines[23]
    );
}

#[test]
fn a_large_terminal_has_room_for_all_figures_and_a_narrow_one_for_the_names_and_states() {
    let lines = drawn(&view(report()), 140, 40);
    shows(&lines, &["Waiting", "at most 12", "2 due in the next hour", "DONE, LAST HOUR", "RETRYING"]);
    let lines = drawn(&view(report()), 40, 40);
    shows(&lines, &["One thing needs you.", "webhook", "paused", "'cust-9' to go on"]);
    assert!(!lines.iter().any(|line| line.contains("RETRYING")), "{}", lines.join("\n"));
    for (width, height) in [(1, 1), (7, 3), (20, 5), (80, 8), (300, 100)] {
        drawn(&view(report()), width, height);
    }
}

#[test]
fn what_does_not_fit_is_reached_by_moving_to_its_table_and_scrolling() {
    let types = (0..50).map(|number| row(&format!("type-{number}"), "done", "serving")).collect();
    let mut view = view(OverviewReport { types, ..report() });
    let lines = drawn(&view, 80, 24);
    shows(&lines, &["Types (50)", "lines below", "What needs you (1)", "Processes (1)"]);
    press(&mut view, KeyCode::Tab);
    press(&mut view, KeyCode::End);
    let shown = screen(&view, Theme { is_coloured: true }, (80, 24), Instant::now());
    assert!(shown.scroll_max > 30 && shown.scroll_max < 50, "{}", shown.scroll_max);
    shows(&drawn(&view, 80, 24), &["type-49", "lines above", "What needs you (1)"]);
}

#[test]
fn a_calm_outbox_has_no_list_of_needs() {
    let calm = OverviewReport { needs: Vec::new(), opening: words("Nothing needs you"), ..report() };
    let lines = drawn(&view(calm), 80, 24);
    assert_eq!(lines[0], "Nothing needs you.");
    assert!(!lines.iter().any(|line| line.contains("What needs you")), "{}", lines.join("\n"));
}

#[test]
fn a_store_that_cannot_be_read_is_said_with_the_reason_and_since_when() {
    let begun = Instant::now();
    let mut view = TopView::new(words("https://outbox.example"), Duration::from_secs(2));
    let at = |view: &TopView, seconds| {
        let shown = screen(view, Theme { is_coloured: true }, (80, 24), begun + Duration::from_secs(seconds));
        shown.lines.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(at(&view, 0)[0], "Reading https://outbox.example…");
    view.learn(Err(words("https://outbox.example answers 401: the token is none of this host's")), begun);
    let lines = at(&view, 12);
    assert_eq!(lines[0], "It is not known whether anything needs you.");
    shows(&lines, &["https://outbox.example has not been readable for 12s:", "answers 401", "Trying again every 2s."]);
    view.learn(Ok(report()), begun);
    view.learn(Err(words("asking https://outbox.example: connection refused")), begun);
    shows(&at(&view, 70), &["One thing needs you.", "has not been readable for 1m", "connection refused", "webhook"]);
}

#[test]
fn a_pause_and_the_help_are_said() {
    let mut view = view(report());
    press(&mut view, KeyCode::Char('p'));
    shows(&drawn(&view, 80, 24), &["PAUSED: p goes on"]);
    shows(&drawn(&view, 40, 24), &["PAUSED: p goes on"]);
    press(&mut view, KeyCode::Char('?'));
    shows(&drawn(&view, 80, 24), &["One thing needs you.", "pause the updates, or go on"]);
}

#[test]
fn without_colours_everything_is_said_in_words_and_signs() {
    let lines = |is_coloured| screen(&view(report()), Theme { is_coloured }, (80, 24), Instant::now()).lines;
    let has_colour = |lines: &[Line<'static>]| {
        let mut styles =
            lines.iter().flat_map(|line| [line.style].into_iter().chain(line.spans.iter().map(|span| span.style)));
        styles.any(|style| style.fg.is_some_and(|colour| colour != Color::Reset))
    };
    let (plain, coloured) = (lines(false), lines(true));
    assert!(!has_colour(&plain) && has_colour(&coloured));
    let text = |lines: &[Line<'static>]| lines.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(text(&plain), text(&coloured));
}
