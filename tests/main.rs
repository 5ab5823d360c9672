//! One test binary for every promise between modules.

mod layering;
mod sql;
mod store_contract;
mod store_model;
mod support;
mod worker;
