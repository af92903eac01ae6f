//! The role manager: one Raft group that says who is in service, who is publisher and who holds which duty.
//!
//! [`Roles::start`] takes part in the group; [`Roles::watch`] shows it; [`Roles::gate`] is what every effect of a
//! duty has to pass. The decisions are those of `twinbox-roles-core`; here are Raft's store and network, leases,
//! and the tasks that drive them. DESIGN.md beside this crate says how the parts fit.

mod config;
mod convert;
mod dialer;
mod error;
mod gate;
mod keeper;
mod leader;
mod members;
mod orders;
mod raft;
mod roles;
mod roster;
mod server;
mod standing;

pub use config::{MemberAddress, RolesConfig};
pub use error::{CommandError, RolesError};
pub use gate::{Gate, InFlight, NotHolder};
pub use roles::Roles;
pub use server::RolesService;
pub use twinbox_roles_core::{
    Bound, Duty, DutyState, DutyView, HealthReport, MemberKind, MemberView, Order, OrderId, Refusal, RolesView,
    ServiceHealth, Status, Timing,
};
