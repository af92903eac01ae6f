//! Health of a node: checks of its services, local restarts, self-test calls, the watchdog of the event loop, liveness
//! and readiness.

mod checks;
mod cpu;
mod duties;
mod health;
pub mod liveness;
mod probe;
mod restart;
mod self_test;
mod service_monitor;
mod services;
pub mod watchdog;

pub use duties::DutyHandles;
pub use health::{Health, Measured, NodeHandles, ServiceState, serves_elsewhere};
pub use probe::Verdict;
pub use self_test::SelfTests;
pub use services::{ROLE_MANAGER, RestartRefused};
pub use watchdog::LoopHeartbeat;
