//! Charts as SVG: the shape of a figure over time, with its title and its description in words.
//!
//! A chart has no style of its own: the stylesheet gives classes their colours and sizes. It does not know what it shows.

use std::fmt::Write as _;

use askama::Template;

/// The width of a chart in its own units.
const WIDTH: u64 = 340;

/// The length of a line of one point.
const POINT: f64 = 5.0;

/// A figure over time, as a filled line.
#[derive(Template)]
#[template(path = "chart.html")]
pub(super) struct Chart {
    title: String,
    about: String,
    width: u64,
    height: u64,
    class: &'static str,
    lines: Vec<ChartLine>,
}

/// One line of a chart.
struct ChartLine {
    class: &'static str,
    points: String,
    area: Option<String>,
}

impl Chart {
    /// A chart of one figure. `about` says in words what the line shows.
    pub(super) fn of(title: &str, about: String, values: &[u64]) -> Self {
        Self::new(title, about, "chart", 90, vec![("s", known(values), true)])
    }

    /// A chart of several figures with one scale: the first is the strongest line. A line has gaps where nothing is known.
    pub(super) fn of_several(title: &str, about: String, lines: [&[Option<u64>]; 3]) -> Self {
        let [first, second, third] = lines.map(<[_]>::to_vec);
        let lines = vec![("s3", third, false), ("s2", second, false), ("s", first, false)];
        Self::new(title, about, "chart", 90, lines)
    }

    /// A small chart for a cell of a table.
    pub(super) fn small(title: &str, about: String, values: &[u64]) -> Self {
        Self::new(title, about, "spark", 22, vec![("s", known(values), true)])
    }

    fn new(
        title: &str,
        about: String,
        class: &'static str,
        height: u64,
        lines: Vec<(&'static str, Vec<Option<u64>>, bool)>,
    ) -> Self {
        let width = if class == "spark" { 90 } else { WIDTH };
        let most = lines.iter().flat_map(|(_, values, _)| values.iter()).flatten().copied().max().unwrap_or(0);
        let line = |(class, values, is_filled): (&'static str, Vec<Option<u64>>, bool)| {
            let lines = points(&values, most, width, height);
            lines.into_iter().map(move |points| {
                let area = is_filled.then(|| format!("0,{height} {points} {width},{height}"));
                ChartLine { class, points, area }
            })
        };
        let lines = lines.into_iter().flat_map(line).collect();
        Self { title: title.to_owned(), about, width, height, class, lines }
    }
}

fn known(values: &[u64]) -> Vec<Option<u64>> {
    values.iter().copied().map(Some).collect()
}

/// The corners of the lines, one line for each run of known values, with a margin above and below so that no stroke is
/// cut.
fn points(values: &[Option<u64>], most: u64, width: u64, height: u64) -> Vec<String> {
    let (mut lines, mut text, last) = (Vec::new(), String::new(), values.len().saturating_sub(1).max(1) as u64);
    for (index, value) in values.iter().enumerate() {
        let Some(value) = value else {
            lines.extend(ended(&mut text));
            continue;
        };
        let x = index as u64 * width * 10 / last;
        let room = height - 4;
        let y = (height - 2) * 10
            - u64::try_from(u128::from(*value) * u128::from(room * 10) / u128::from(most.max(1))).unwrap_or(0);
        let gap = if text.is_empty() { "" } else { " " };
        // Writing into a text cannot fail.
        let _ = write!(text, "{gap}{}.{},{}.{}", x / 10, x % 10, y / 10, y % 10);
    }
    lines.extend(ended(&mut text));
    lines
}

/// The line so far. One of a single point gets a length, so that it is seen.
fn ended(text: &mut String) -> Option<String> {
    let line = std::mem::take(text);
    match line.split_once(' ') {
        _ if line.is_empty() => None,
        None => {
            let (x, y) = line.split_once(',').unwrap_or((&line, "0"));
            let begin = x.parse::<f64>().unwrap_or(0.0) - POINT;
            Some(format!("{:.1},{y} {line}", begin.max(0.0)))
        }
        Some(_) => Some(line),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_spans_the_chart_and_touches_neither_edge() {
        assert_eq!(points(&known(&[0, 5, 10]), 10, 100, 24), ["0.0,22.0 50.0,12.0 100.0,2.0"]);
        assert_eq!(points(&known(&[0]), 0, 100, 24), ["0.0,22.0 0.0,22.0"]);
        assert_eq!(points(&known(&[u64::MAX, 0]), u64::MAX, 100, 24), ["0.0,2.0 100.0,22.0"]);
    }

    #[test]
    fn a_line_has_a_gap_where_nothing_is_known() {
        let lines = points(&[Some(0), None, Some(10), Some(0), None], 10, 100, 24);
        assert_eq!(lines, ["0.0,22.0 0.0,22.0", "50.0,2.0 75.0,22.0"]);
        assert_eq!(points(&[None, Some(1)], 1, 100, 24), ["95.0,2.0 100.0,2.0"], "one point is seen");
    }

    #[test]
    fn a_chart_says_in_words_what_it_shows() {
        let svg = Chart::of("Throughput", "at most 5 items <each> second".into(), &[1, 5]).to_string();
        assert!(svg.contains("<title>Throughput</title>") && svg.contains("&#60;each"), "{svg}");
        assert!(!svg.contains("style="), "{svg}");
    }
}
