//! The id of a schedule, for programs: `crash:3a+crash:return` ends the first attempt after the effect of its third
//! call, and the second attempt after its return.
//!
//! A disruption happens in the attempt after the one of the disruption before it, the first one in the first attempt.
//! Where it does not, the number of the attempt is in front: `2:fails:1`.

use std::fmt;
use std::str::FromStr;

use crate::schedule::{CrashPoint, Disruption, PlacedDisruption, ReceiverBehaviour, ResponseFault, Schedule};

/// The word of the run in which nothing goes wrong.
const UNDISTURBED: &str = "undisturbed";

/// The first part of the ids of schedules at receivers that do not honour keys at once.
const RECEIVERS: [(&str, ReceiverBehaviour); 3] =
    [("ignore/", ReceiverBehaviour::Ignore), ("busy/", ReceiverBehaviour::Busy), ("abort/", ReceiverBehaviour::Abort)];

/// The words of faults.
const FAULTS: [(&str, ResponseFault); 13] = [
    ("silent", ResponseFault::NoResponse),
    ("lies", ResponseFault::ErrorAfterEffect),
    ("breaks", ResponseFault::Broken),
    ("fails", ResponseFault::Error),
    ("unavailable", ResponseFault::Unavailable),
    ("gateway", ResponseFault::GatewayTimeout),
    ("throttles", ResponseFault::Throttled),
    ("refuses", ResponseFault::Refused),
    ("vanishes", ResponseFault::Vanished),
    ("more", ResponseFault::SaysMore),
    ("nothing", ResponseFault::SaysNothing),
    ("outage", ResponseFault::Outage),
    ("unreachable", ResponseFault::Unreachable),
];

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let receivers = RECEIVERS.iter().find(|(_, receivers)| *receivers == self.receivers);
        f.write_str(receivers.map_or("", |(word, _)| word))?;
        f.write_str(if self.disruptions.is_empty() { UNDISTURBED } else { "" })?;
        let mut next = 1;
        for (index, PlacedDisruption { attempt, disruption }) in self.disruptions.iter().enumerate() {
            f.write_str(if index == 0 { "" } else { "+" })?;
            if *attempt != next {
                write!(f, "{attempt}:")?;
            }
            write!(f, "{disruption}")?;
            next = attempt + 1;
        }
        Ok(())
    }
}

impl fmt::Display for Disruption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Crash(point) => write!(f, "crash:{point}"),
            Self::Reload(point) => write!(f, "reload:{point}"),
            Self::OverrunLease(point) => write!(f, "outlive:{point}"),
            Self::Conflict(call) => write!(f, "conflict:{call}"),
            Self::Fault(call, fault) => {
                let word = FAULTS.iter().find(|(_, known)| known == fault).map_or("", |(word, _)| word);
                write!(f, "{word}:{call}")
            }
        }
    }
}

impl fmt::Display for CrashPoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Before(call) => write!(f, "{call}b"),
            Self::After(call) => write!(f, "{call}a"),
            Self::Return => f.write_str("return"),
            Self::Commit => f.write_str("commit"),
        }
    }
}

/// The text is no id of a schedule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct UnknownSchedule;

impl FromStr for Schedule {
    type Err = UnknownSchedule;

    fn from_str(text: &str) -> Result<Self, UnknownSchedule> {
        let prefixed = RECEIVERS.iter().find_map(|(word, receivers)| Some((text.strip_prefix(word)?, *receivers)));
        let (text, receivers) = prefixed.unwrap_or((text, ReceiverBehaviour::Honour));
        let mut schedule = Self { receivers, ..Self::undisturbed() };
        if text == UNDISTURBED {
            return Ok(schedule);
        }
        let mut next = 1;
        for part in text.split('+') {
            let placed = parse_placed(part, next).ok_or(UnknownSchedule)?;
            next = placed.attempt + 1;
            schedule.disruptions.push(placed);
        }
        Ok(schedule)
    }
}

fn parse_placed(text: &str, next: u32) -> Option<PlacedDisruption> {
    let (first, rest) = text.split_once(':')?;
    match first.parse() {
        Ok(attempt) => Some(PlacedDisruption { attempt, disruption: parse_disruption(rest)? }),
        Err(_) => Some(PlacedDisruption { attempt: next, disruption: parse_disruption(text)? }),
    }
}

fn parse_disruption(text: &str) -> Option<Disruption> {
    let (word, place) = text.split_once(':')?;
    match word {
        "crash" => parse_point(place).map(Disruption::Crash),
        "reload" => parse_point(place).map(Disruption::Reload),
        "outlive" => parse_point(place).map(Disruption::OverrunLease),
        "conflict" => place.parse().ok().map(Disruption::Conflict),
        word => {
            let (_, fault) = FAULTS.iter().find(|(known, _)| *known == word)?;
            Some(Disruption::Fault(place.parse().ok()?, *fault))
        }
    }
}

fn parse_point(text: &str) -> Option<CrashPoint> {
    match text {
        "return" => Some(CrashPoint::Return),
        "commit" => Some(CrashPoint::Commit),
        text => {
            let before = text.strip_suffix('b').and_then(|call| call.parse().ok()).map(CrashPoint::Before);
            before.or_else(|| text.strip_suffix('a').and_then(|call| call.parse().ok()).map(CrashPoint::After))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_read_as_it_was_written() {
        let ids = [
            "undisturbed",
            "crash:1b",
            "ignore/crash:commit",
            "busy/2:crash:3a",
            "silent:1+crash:return",
            "2:refuses:1+4:outlive:1a",
            "fails:2+1:vanishes:3",
            "outage:10",
            "unreachable:1",
            "fails:1+fails:1",
            "crash:2b+gateway:2",
            "crash:return+more:1",
            "3:conflict:2",
        ];
        for id in ids {
            assert_eq!(id.parse::<Schedule>().unwrap().to_string(), id);
        }
        for text in ["", "crash", "crash:1", "crash:x", "burns:1", "2:", "crash:1a+"] {
            assert!(text.parse::<Schedule>().is_err(), "{text}");
        }
    }
}
