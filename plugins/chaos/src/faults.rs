//! Orders that the host has to survive.

use std::hint::black_box;
use std::time::Duration;

use serde_json::Value;

pub(crate) fn compute_for_ever() -> ! {
    let mut rounds = 0_u64;
    loop {
        rounds = black_box(rounds.wrapping_add(1));
    }
}

pub(crate) fn sleep(time: Duration) -> Value {
    std::thread::sleep(time);
    Value::Null
}

/// Takes memory block by block, each written to, and answers how much it got.
pub(crate) fn eat(limit: Option<usize>) -> usize {
    const BLOCK: usize = 1 << 20;
    let mut blocks = Vec::new();
    while limit.is_none_or(|limit| blocks.len() * BLOCK < limit) {
        blocks.push(black_box(vec![1_u8; BLOCK]));
    }
    blocks.len() * BLOCK
}

/// Never returns: the addition after the call keeps it from being turned into a loop.
pub(crate) fn recurse(depth: u64) -> u64 {
    let frame = black_box([depth; 32]);
    if frame[0] == u64::MAX { depth } else { recurse(depth + 1) + black_box(frame[31]) }
}
