//! The options of an action on items, as a form has them and as the order of the JSON interface names them.

use std::time::Duration;

use serde_json::{Value, json};

use outbox_item::Millis;

use crate::page::actions::Deed;
use crate::page::form::FormFields;
use crate::problem::ApiError;
use crate::query::number;

/// The options of an action, as they were chosen.
#[derive(Default)]
pub(super) struct ChosenOptions {
    pub(super) new_effects: bool,
    pub(super) skip_key: bool,
    pub(super) force: bool,
    pub(super) delay: String,
    pub(super) available_at: Option<Millis>,
}

impl ChosenOptions {
    /// The options of a form. A delay becomes a time, so that the form repeats what the page before said.
    pub(super) fn read(fields: &FormFields, deed: &Deed, now: Millis) -> Result<Self, ApiError> {
        let is_chosen = |name: &str| fields.get(name).is_some();
        let delay = fields.get("delay").unwrap_or("0s").to_owned();
        let mut options = Self {
            new_effects: is_chosen("new_effects"),
            skip_key: is_chosen("skip_key"),
            force: is_chosen("force"),
            delay,
            available_at: None,
        };
        if deed.word == "reschedule" {
            options.available_at = Some(match fields.get("available_at") {
                Some(text) => number("available_at", text)?,
                None => now.saturating_add(length(&options.delay)?),
            });
        }
        Ok(options)
    }

    /// The options in one word each. A form whose options differ from those that its page was about leads to a new page.
    pub(super) fn shown(&self) -> String {
        format!("{} {} {} {}", self.new_effects, self.skip_key, self.force, self.delay)
    }

    /// The members of the order.
    pub(super) fn members(&self) -> impl Iterator<Item = (&'static str, Value)> {
        let flags = [("new_effects", self.new_effects), ("skip_key", self.skip_key), ("force", self.force)];
        let chosen = flags.into_iter().filter(|(_, is_chosen)| *is_chosen).map(|(name, _)| (name, json!(true)));
        chosen.chain(self.available_at.map(|at| ("available_at", json!(at))))
    }
}

/// A length of time that a person wrote, such as `15m`.
fn length(text: &str) -> Result<Duration, ApiError> {
    let invalid = || ApiError::Invalid(format!("the delay is {text:?}: write it such as 30s, 15m or 2h"));
    humantime::parse_duration(text).map_err(|_| invalid())
}
