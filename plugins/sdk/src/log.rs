//! Lines for the host's log. The host adds the plugin and the item.

use std::fmt::Display;

use crate::bindings::wasi::logging::logging::{Level, log};

/// Details for finding a fault.
pub fn debug(message: impl Display) {
    write(Level::Debug, &message);
}

/// Events of normal operation that an operator wants to see.
pub fn info(message: impl Display) {
    write(Level::Info, &message);
}

/// An unexpected condition with which the handler could continue.
pub fn warn(message: impl Display) {
    write(Level::Warn, &message);
}

/// An operation that failed.
pub fn error(message: impl Display) {
    write(Level::Error, &message);
}

fn write(level: Level, message: &dyn Display) {
    log(level, "", &message.to_string());
}
