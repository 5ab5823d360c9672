//! The rights of callers, and the roles that have them.
//!
//! Pure data: how a caller proves its role, and which route needs which right, is not known here.

use std::fmt;
use std::str::FromStr;

/// What a route, or a part of an answer, needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Right {
    /// To write items and to start sagas.
    Enqueue,
    /// To read items without what they contain, jobs, failures, signals, the audit trail and the state of the outbox.
    Read,
    /// To read payloads, headers, metadata and results of items, recorded requests and messages of failures, and to
    /// find items by them.
    ReadPayload,
    /// To act on items, types, ordering keys and jobs. What is deleted needs [`Right::Admin`].
    Operate,
    /// To delete items.
    Admin,
    /// To read metrics, of this process and of the store.
    Scrape,
}

impl Right {
    /// All rights, in the order of the documents.
    pub const ALL: [Self; 6] = [Self::Enqueue, Self::Read, Self::ReadPayload, Self::Operate, Self::Admin, Self::Scrape];

    /// The word in settings, problems and documents.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Enqueue => "enqueue",
            Self::Read => "read",
            Self::ReadPayload => "read-payload",
            Self::Operate => "operate",
            Self::Admin => "admin",
            Self::Scrape => "scrape",
        }
    }

    const fn bit(self) -> u8 {
        1 << self as u8
    }
}

/// A set of rights.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rights(u8);

impl Rights {
    /// Every right.
    pub fn all() -> Self {
        Right::ALL.into_iter().collect()
    }

    /// Whether the set has the right.
    pub const fn has(self, right: Right) -> bool {
        self.0 & right.bit() != 0
    }

    /// The rights of both sets.
    #[must_use]
    pub const fn and(self, others: Self) -> Self {
        Self(self.0 | others.0)
    }
}

impl FromIterator<Right> for Rights {
    fn from_iter<I: IntoIterator<Item = Right>>(rights: I) -> Self {
        Self(rights.into_iter().fold(0, |bits, right| bits | right.bit()))
    }
}

/// What a token, or a user of a trusted proxy, is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// An application that enqueues.
    Enqueue,
    /// A person or a program that looks.
    Read,
    /// A person or a program that acts on what it sees.
    Operate,
    /// Everything.
    Admin,
    /// A collector of metrics.
    Scrape,
}

impl Role {
    /// All roles, in the order of the documents.
    pub const ALL: [Self; 5] = [Self::Enqueue, Self::Read, Self::Operate, Self::Admin, Self::Scrape];

    /// The word in settings and documents.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Enqueue => "enqueue",
            Self::Read => "read",
            Self::Operate => "operate",
            Self::Admin => "admin",
            Self::Scrape => "scrape",
        }
    }

    /// The rights that the role has by itself.
    pub fn rights(self) -> Rights {
        let rights: &[Right] = match self {
            Self::Enqueue => &[Right::Enqueue],
            Self::Read => &[Right::Read, Right::Scrape],
            Self::Operate => &[Right::Read, Right::Operate, Right::Scrape],
            Self::Admin => &Right::ALL,
            Self::Scrape => &[Right::Scrape],
        };
        rights.iter().copied().collect()
    }
}

/// A word that names no role, or no right. Its text has the words that do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct UnknownWord(String);

impl FromStr for Right {
    type Err = UnknownWord;

    fn from_str(word: &str) -> Result<Self, UnknownWord> {
        known(&Self::ALL, Self::as_str, word)
    }
}

impl FromStr for Role {
    type Err = UnknownWord;

    fn from_str(word: &str) -> Result<Self, UnknownWord> {
        known(&Self::ALL, Self::as_str, word)
    }
}

fn known<T: Copy>(all: &[T], as_str: fn(T) -> &'static str, word: &str) -> Result<T, UnknownWord> {
    let words = || all.iter().map(|one| as_str(*one)).collect::<Vec<_>>().join(", ");
    all.iter().copied().find(|one| as_str(*one) == word).ok_or_else(|| UnknownWord(words()))
}

impl fmt::Display for Right {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_role_has_its_own_rights_only() {
        for (role, expected) in [
            (Role::Enqueue, "enqueue"),
            (Role::Read, "read scrape"),
            (Role::Operate, "read operate scrape"),
            (Role::Admin, "enqueue read read-payload operate admin scrape"),
            (Role::Scrape, "scrape"),
        ] {
            let rights = Right::ALL.into_iter().filter(|right| role.rights().has(*right));
            assert_eq!(rights.map(Right::as_str).collect::<Vec<_>>().join(" "), expected, "{role}");
            assert_eq!(role.as_str().parse(), Ok(role));
        }
        let more = Role::Read.rights().and([Right::ReadPayload].into_iter().collect());
        assert!(more.has(Right::ReadPayload) && more.has(Right::Read) && !more.has(Right::Operate));
    }

    #[test]
    fn an_unknown_word_is_answered_with_those_that_are_known() {
        let err = "root".parse::<Role>().unwrap_err().to_string();
        assert_eq!(err, "enqueue, read, operate, admin, scrape");
        assert!("write".parse::<Right>().unwrap_err().to_string().contains("read-payload"));
    }
}
