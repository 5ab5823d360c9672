//! What an operator can do to items, as the pages offer it: the words, and what each action means for their effects.
//!
//! Which status takes which action is decided by the store; who may do it, by the rights of the routes.

use outbox_core::{FailedAttempt, FailureClass, OnDead};
use outbox_item::{Millis, Status};
use outbox_store::{Action, EffectKeys, ItemDetails, LeasePolicy};

use crate::access::{Caller, Right};

/// An action with its words.
pub(super) struct Deed {
    /// The word in addresses and in the audit trail.
    pub(super) word: &'static str,
    /// The verb on buttons.
    pub(super) verb: &'static str,
    /// What was done to items, in the past.
    pub(super) past: &'static str,
    pub(super) right: Right,
    /// The statuses of which items can take it, where an address names none.
    usual: &'static [Status],
}

/// Every action, in the order of its buttons.
pub(super) const DEEDS: [Deed; 6] = [
    Deed { word: "replay", verb: "Replay", past: "replayed", right: Right::Operate, usual: &[Status::Dlq] },
    Deed {
        word: "reschedule",
        verb: "Reschedule",
        past: "rescheduled",
        right: Right::Operate,
        usual: &[Status::Pending],
    },
    Deed { word: "release", verb: "Release", past: "released", right: Right::Operate, usual: &[Status::Claimed] },
    Deed { word: "restore", verb: "Restore", past: "restored", right: Right::Operate, usual: &[Status::Dlq] },
    Deed {
        word: "dead",
        verb: "Dead-letter",
        past: "dead-lettered",
        right: Right::Operate,
        usual: &[Status::Pending, Status::Claimed],
    },
    Deed { word: "purge", verb: "Purge", past: "purged", right: Right::Admin, usual: &[Status::Dlq] },
];

impl Deed {
    /// The action of this word.
    pub(super) fn of_word(word: &str) -> Option<&'static Self> {
        DEEDS.iter().find(|deed| deed.word == word)
    }

    /// Whether items of the status can take it.
    pub(super) fn applies_to(&self, status: Status) -> bool {
        self.action().applies_to(status)
    }

    /// The statuses of a filter that the action is for: those of the filter, or the usual ones where it names none.
    pub(super) fn statuses(&self, asked: &[Status]) -> Vec<Status> {
        if asked.is_empty() {
            return self.usual.to_vec();
        }
        asked.iter().copied().filter(|status| self.applies_to(*status)).collect()
    }

    fn action(&self) -> Action {
        match self.word {
            "replay" => Action::Replay { keys: EffectKeys::Same },
            "reschedule" => Action::Reschedule { at: Millis::default() },
            "release" => Action::Release { lease: LeasePolicy::Respect },
            "restore" => Action::Restore,
            "dead" => Action::Dead { on_dead: OnDead::Block, lease: LeasePolicy::Respect },
            _ => Action::Purge,
        }
    }
}

/// A button of an action.
pub(super) struct Choice {
    pub(super) word: &'static str,
    pub(super) verb: &'static str,
    pub(super) class: &'static str,
    /// The statuses of the items that it would take of these: `DLQ and DONE`.
    pub(super) statuses: String,
}

fn choice(deed: &Deed, asked: &[Status]) -> Choice {
    let class = match deed.word {
        "replay" => "strong",
        "dead" | "purge" => "danger",
        _ => "",
    };
    let statuses: Vec<_> = deed.statuses(asked).into_iter().map(Status::as_str).collect();
    Choice { word: deed.word, verb: deed.verb, class, statuses: statuses.join(" and ") }
}

/// The actions that the caller may do to items of these statuses; of all, where none is named.
pub(super) fn choices_for(statuses: &[Status], caller: &Caller) -> Vec<Choice> {
    let applies = |deed: &&Deed| statuses.is_empty() || statuses.iter().any(|status| deed.applies_to(*status));
    DEEDS.iter().filter(|deed| caller.may(deed.right)).filter(applies).map(|deed| choice(deed, statuses)).collect()
}

/// The actions that the caller may do to the item. Only what an operator dead-lettered can be restored.
pub(super) fn choices_for_item(details: &ItemDetails, caller: &Caller) -> Vec<Choice> {
    let last = details.failed_attempts.last().map(|attempt| attempt.class);
    let mut choices = choices_for(&[details.item.status], caller);
    choices.retain(|choice| choice.word != "restore" || last == Some(FailureClass::Operator));
    choices
}

/// Whether the caller may try items: a trial shows what they contain.
pub(super) fn may_try(caller: &Caller) -> bool {
    [Right::Read, Right::ReadPayload, Right::Operate].into_iter().all(|right| caller.may(right))
}

/// The attempt that a trial makes again: the last that failed in a handler.
pub(super) fn tried_attempt(details: &ItemDetails) -> Option<&FailedAttempt> {
    let is_of_handler = |attempt: &&FailedAttempt| {
        !matches!(attempt.class, FailureClass::Operator | FailureClass::Lost | FailureClass::Undecodable)
    };
    details.failed_attempts.iter().rev().find(is_of_handler)
}

/// What an action means for the effects of items: whether any can happen twice, and what cannot be undone.
pub(super) fn consequence(word: &str, statuses: &[Status], has_new_keys: bool) -> Consequence {
    match word {
        "replay" => of_replay(statuses, has_new_keys),
        "release" => Consequence::wait(
            "Duplicates may follow: a new attempt can begin while the old one still sends requests. Both carry the same \
             idempotency keys.",
        ),
        "dead" => Consequence::wait(
            "No duplicates follow: nothing is sent any more. An attempt that is under way may still have its effect. \
             Items behind these in their ordering keys wait, unless the key is skipped.",
        ),
        "purge" => Consequence::bad(
            "This cannot be undone: the items and their history are deleted. Their idempotency keys become free, so an \
             application that enqueues one of them again creates a new item, and its effects follow again.",
        ),
        "restore" => Consequence::wait(
            "Duplicates may follow: the items are attempted again, and an attempt that was under way or failed before may \
             have had its effect. Requests carry the same idempotency keys.",
        ),
        _ => Consequence::wait(
            "Only the time of the next attempt changes. Duplicates may follow as with every attempt after one that failed: \
             requests carry the same idempotency keys.",
        ),
    }
}

fn of_replay(statuses: &[Status], has_new_keys: bool) -> Consequence {
    if has_new_keys {
        return Consequence::bad(
            "Duplicates follow: outgoing requests carry new idempotency keys, so every receiver performs the effects \
             again, also those that were performed before.",
        );
    }
    if statuses.is_empty() || statuses.contains(&Status::Done) {
        return Consequence::bad(
            "Duplicates may follow: items that are DONE have had their effects. Their requests carry the same \
             idempotency keys as before; a receiver that does not honour keys performs the effects again.",
        );
    }
    Consequence::wait(
        "Duplicates may follow: an attempt that failed may have had its effect. Requests carry the same idempotency \
         keys as before, so a receiver that honours keys performs nothing twice. An item whose ordering key was \
         unblocked comes after those that went on.",
    )
}

/// What an operator is told before an action.
pub(super) struct Consequence {
    pub(super) class: &'static str,
    pub(super) text: &'static str,
}

impl Consequence {
    fn wait(text: &'static str) -> Self {
        Self { class: "wait", text }
    }

    fn bad(text: &'static str) -> Self {
        Self { class: "bad", text }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::Role;

    #[test]
    fn a_caller_is_offered_what_it_may_do_to_the_status() {
        let offered = |role: Role, statuses: &[Status]| {
            let choices = choices_for(statuses, &Caller::named("a", role.rights()));
            choices.iter().map(|choice| choice.word).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(offered(Role::Read, &[Status::Dlq]), "");
        assert_eq!(offered(Role::Operate, &[Status::Dlq]), "replay restore");
        assert_eq!(offered(Role::Admin, &[Status::Dlq]), "replay restore purge");
        assert_eq!(offered(Role::Operate, &[Status::Pending]), "reschedule dead");
        assert_eq!(offered(Role::Operate, &[Status::Claimed]), "release dead");
        assert_eq!(offered(Role::Admin, &[]), "replay reschedule release restore dead purge");
    }

    #[test]
    fn a_filter_keeps_the_statuses_that_the_action_is_for() {
        let replay = Deed::of_word("replay").unwrap();
        assert_eq!(replay.statuses(&[]), [Status::Dlq]);
        assert_eq!(replay.statuses(&[Status::Pending, Status::Done]), [Status::Done]);
    }

    #[test]
    fn every_action_says_whether_duplicates_may_follow_or_what_cannot_be_undone() {
        for Deed { word, .. } in &DEEDS {
            let text = consequence(word, &[Status::Dlq], false).text;
            assert!(text.contains("uplicates") || text.contains("undone"), "{word}: {text}");
        }
        for word in ["replay", "release", "restore", "reschedule"] {
            let Consequence { class, text } = consequence(word, &[Status::Dlq], false);
            assert!(class == "wait" && text.contains("Duplicates may follow"), "{word} leads to an attempt: {text}");
        }
        assert!(consequence("replay", &[Status::Dlq], true).text.starts_with("Duplicates follow"));
        assert!(consequence("replay", &[Status::Done], false).text.contains("have had their effects"));
    }
}
