//! The role manager: one Raft group that agrees on members in service, the publisher and the holders of duties.
//!
//! [`Roles::start`] takes part in the group; [`Roles::watch`] shows it; every external effect of a duty must pass
//! [`Roles::gate`]. The decisions are those of `twinbox-roles-core` and `twinbox-roles-member`, and Raft with its store is
//! `twinbox-raft`; this crate has the connections, the leases, and the tasks that drive them. DESIGN.md of the role
//! manager describes the structure.

#[cfg(test)]
extern crate self as twinbox_roles;

#[cfg(test)]
mod batch_tests;
mod boot_clock;
#[cfg(test)]
#[path = "../tests/service/common/mod.rs"]
mod cluster;
mod config;
mod connections;
mod error;
mod failures;
mod group;
mod leading;
mod leases;
mod raft_disk;
#[cfg(test)]
mod raft_tests;
mod roles;
mod task_monitor;
mod tasks;

pub use config::{MemberAddress, RolesConfig};
pub use connections::server::RolesService;
pub use error::{CommandError, RolesError};
pub use failures::exits::ExitsService;
pub use leases::gap::LongestGap;
pub use roles::Roles;
pub use twinbox_gate::{Gate, NotHolder, OwnError, Owned, Permit};
pub use twinbox_raft::StoreError;
#[cfg(feature = "simulation")]
pub use twinbox_raft::simulation;
pub use twinbox_roles_core::{
    Bound, CallHeir, Cause, CertificateOrder, CertificateRefusal, Certificates, Departure, Duty, DutyState,
    DutyView, FAR_BEHIND, Facts, Failback, FeatureLevels, Fingerprint, HealthReport, LocalFacts, Measures,
    MemberKind, MemberView, Mode, Move, MoveObject, OnQuorumLoss, Operator, Order, OrderId, Refusal, RoleSettings,
    RolesView, Rotation, RotationStep, SUPPORTED_LEVELS, ServiceHealth, Setting, SettingError, SoloReport, Split,
    State, Status, Timing, Trigger,
};
pub use twinbox_roles_member::{CallPolicy, call_policy};
