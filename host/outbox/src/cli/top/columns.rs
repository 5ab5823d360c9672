//! Tables that fit into a width: the least important columns give way first, then the first column is cut.
//!
//! Texts of items are untrusted, so control characters are replaced. This file does not know what a table shows.

use ratatui::style::Style;
use ratatui::text::{Line, Span};

use crate::cli::output::clean;

/// The space between two columns.
const GAP: usize = 2;

/// The least width of a first column that is cut.
const FIRST_MIN: usize = 8;

/// A column of a table.
#[derive(Clone, Copy, Debug)]
pub(super) struct TableColumn {
    pub(super) title: &'static str,
    /// The columns with the highest numbers give way first.
    pub(super) rank: u8,
    /// Whether it has numbers, which end in one place.
    pub(super) is_number: bool,
}

/// A cell: its text and how it looks.
pub(super) type TableCell = (String, Style);

/// The lines of a table: the titles, and then the rows.
pub(super) fn lines(
    columns: &[TableColumn],
    rows: Vec<Vec<TableCell>>,
    head: Style,
    width: usize,
) -> Vec<Line<'static>> {
    let titles: Vec<TableCell> = columns.iter().map(|column| (column.title.to_owned(), head)).collect();
    let cleaned = |row: Vec<TableCell>| -> Vec<TableCell> {
        row.into_iter().map(|(text, style)| (clean(&text), style)).collect()
    };
    let rows: Vec<Vec<TableCell>> = [titles].into_iter().chain(rows.into_iter().map(cleaned)).collect();
    let widths = widths(columns, &rows, width);
    let line = |row: Vec<TableCell>| {
        let cells = row.into_iter().zip(columns).zip(&widths).filter(|(_, width)| **width > 0);
        Line::from(cells.map(|((cell, column), width)| padded(cell, *width, column.is_number)).collect::<Vec<_>>())
    };
    rows.into_iter().map(line).collect()
}

/// The width of each column with the gap behind it; 0 for those that give way.
fn widths(columns: &[TableColumn], rows: &[Vec<TableCell>], width: usize) -> Vec<usize> {
    let widest = |index: usize| rows.iter().filter_map(|row| row.get(index)).map(|(text, _)| cells(text)).max();
    let mut widths: Vec<usize> = (0..columns.len()).map(|index| widest(index).unwrap_or(0) + GAP).collect();
    let mut by_rank: Vec<usize> = (1..columns.len()).collect();
    by_rank.sort_by_key(|index| std::cmp::Reverse(columns[*index].rank));
    let others = |widths: &[usize]| widths.iter().skip(1).sum::<usize>();
    for index in by_rank {
        if others(&widths) + widths[0].min(FIRST_MIN + GAP) > width + GAP {
            widths[index] = 0;
        }
    }
    widths[0] = widths[0].min((width + GAP).saturating_sub(others(&widths))).max(GAP + 1);
    widths
}

/// The cell in its width, with the gap behind it.
fn padded((text, style): TableCell, width: usize, is_number: bool) -> Span<'static> {
    let room = width - GAP;
    let text = cut(&text, room);
    let missing = " ".repeat(room - cells(&text));
    let gap = " ".repeat(GAP);
    let text = if is_number { format!("{missing}{text}{gap}") } else { format!("{text}{missing}{gap}") };
    Span::styled(text, style)
}

/// The text, or as much of it as fits, with an ellipsis.
pub(super) fn cut(text: &str, width: usize) -> String {
    if cells(text) <= width {
        return text.to_owned();
    }
    let mut kept = String::new();
    for character in text.chars() {
        if cells(&kept) + cells(character.encode_utf8(&mut [0; 4])) + 1 > width {
            break;
        }
        kept.push(character);
    }
    if width > 0 { kept + "…" } else { kept }
}

/// How many cells of a terminal the text takes.
pub(super) fn cells(text: &str) -> usize {
    Span::raw(text).width()
}

/// The text in at most `most` lines of this width, broken between words. What does not fit into a line is cut.
pub(super) fn wrapped(text: &str, width: usize, most: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        let is_full = lines.len() == most;
        let is_joined = lines.last().is_some_and(|line| is_full || cells(line) + 1 + cells(word) <= width);
        match lines.last_mut() {
            Some(line) if is_joined => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines.iter().map(|line| cut(&clean(line), width)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const COLUMNS: [TableColumn; 3] = [
        TableColumn { title: "TYPE", rank: 0, is_number: false },
        TableColumn { title: "STATE", rank: 1, is_number: false },
        TableColumn { title: "WAITING", rank: 2, is_number: true },
    ];

    fn table(width: usize) -> Vec<String> {
        let cell = |text: &str| (text.to_owned(), Style::new());
        let rows = vec![
            vec![cell("mail\u{1b}[2J"), cell("serving"), cell("1,284")],
            vec![cell("a-long-type-name"), cell("paused"), cell("7")],
        ];
        lines(&COLUMNS, rows, Style::new(), width).iter().map(|line| line.to_string().trim_end().to_owned()).collect()
    }

    #[test]
    fn numbers_end_in_one_place_and_control_characters_do_nothing() {
        assert_eq!(
            table(40),
            [
                "TYPE              STATE    WAITING",
                "mail\u{fffd}[2J          serving    1,284",
                "a-long-type-name  paused         7"
            ]
        );
    }

    #[test]
    fn a_narrow_table_cuts_the_names_and_then_leaves_out_what_matters_least() {
        assert_eq!(table(28)[2], "a-long-ty…  paused         7");
        assert_eq!(table(20)[2], "a-long-typ…  paused");
        assert_eq!(table(10)[2], "a-long-ty…");
    }

    #[test]
    fn a_long_text_is_broken_between_words_and_its_last_line_is_cut() {
        assert_eq!(wrapped("one two three four", 9, 5), ["one two", "three", "four"]);
        assert_eq!(wrapped("one two three four", 9, 2), ["one two", "three fo…"]);
        assert_eq!(wrapped("", 9, 2), Vec::<String>::new());
        assert_eq!((cut("äöü", 2), cut("äöü", 3)), ("ä…".to_owned(), "äöü".to_owned()));
    }
}
