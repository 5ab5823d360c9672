//! One test binary for every promise between modules.

mod store_contract;
mod support;
mod worker;
