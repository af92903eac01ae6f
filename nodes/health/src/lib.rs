//! Health of a node: checks of its services, local restarts, self-test calls, the watchdog of the event loop, liveness
//! and readiness. The end of a process whose store failed, also of a witness.

mod checks;
mod cpu;
mod duties;
pub mod failed_store;
mod health;
pub mod liveness;
mod probe;
mod restart;
mod self_test;
mod service_monitor;
mod services;
pub mod watchdog;
#[cfg(debug_assertions)]
pub mod wedge;

pub use duties::DutyHandles;
pub use health::{Health, Measured, NodeHandles, ServiceState, serves_elsewhere};
pub use probe::CheckResult;
pub use self_test::SelfTests;
pub use services::{ROLE_MANAGER, RestartRefused};
pub use watchdog::LoopHeartbeat;
