//! How things look: colours that are readable on dark and on light terminals, and what replaces them without colours.
//!
//! Only the colours that every terminal has are used, in the shades that the person chose, and never as the only sign.

use ratatui::style::{Color, Modifier, Style};

/// Whether there are colours.
#[derive(Clone, Copy, Debug)]
pub(super) struct Theme {
    /// False with `NO_COLOR`.
    pub(super) is_coloured: bool,
}

impl Theme {
    /// Text that the reader sees first.
    pub(super) fn strong() -> Style {
        Style::new().add_modifier(Modifier::BOLD)
    }

    /// Text that matters less.
    pub(super) fn soft() -> Style {
        Style::new().add_modifier(Modifier::DIM)
    }

    /// The table that keys move through, and what must be seen.
    pub(super) fn marked() -> Style {
        Style::new().add_modifier(Modifier::REVERSED)
    }

    /// The style of a class of the cockpit: `urgent`, `notice`, `done`, `run`, `wait`, `bad` or `off`.
    pub(super) fn of_class(self, class: &str) -> Style {
        match class {
            "urgent" | "bad" => self.coloured(Color::Red).add_modifier(Modifier::BOLD),
            "notice" | "wait" => self.coloured(Color::Magenta),
            "done" => self.coloured(Color::Green),
            "off" => Self::soft(),
            _ => Style::new(),
        }
    }

    /// The style of bars.
    pub(super) fn bars(self) -> Style {
        self.coloured(Color::Cyan)
    }

    fn coloured(self, colour: Color) -> Style {
        if self.is_coloured { Style::new().fg(colour) } else { Style::new() }
    }
}
