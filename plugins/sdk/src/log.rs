//! Lines for the host's log, which adds the plugin and the item.

use std::fmt::Display;

use crate::bindings::wasi::logging::logging::{Level, log};

/// For whoever looks for a fault.
pub fn debug(message: impl Display) {
    write(Level::Debug, &message);
}

/// What an operator wants to see on a good day.
pub fn info(message: impl Display) {
    write(Level::Info, &message);
}

/// Something odd that the handler could live with.
pub fn warn(message: impl Display) {
    write(Level::Warn, &message);
}

/// Something that the handler could not do.
pub fn error(message: impl Display) {
    write(Level::Error, &message);
}

fn write(level: Level, message: &dyn Display) {
    log(level, "", &message.to_string());
}
