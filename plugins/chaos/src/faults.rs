//! Orders with faults that the host has to survive.

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

/// Allocates memory in blocks of 1 MiB and writes to each of them; returns the number of bytes.
pub(crate) fn eat(limit: Option<usize>) -> usize {
    const BLOCK: usize = 1 << 20;
    let mut blocks = Vec::new();
    while limit.is_none_or(|limit| blocks.len() * BLOCK < limit) {
        blocks.push(black_box(vec![1_u8; BLOCK]));
    }
    blocks.len() * BLOCK
}

/// Recurses without end. The addition after the call keeps the compiler from turning the recursion into a loop.
pub(crate) fn recurse(depth: u64) -> u64 {
    let frame = black_box([depth; 32]);
    if frame[0] == u64::MAX { depth } else { recurse(depth + 1) + black_box(frame[31]) }
}
