//! One test binary for every promise between modules.

mod sql;
mod store_contract;
mod support;
mod worker;
