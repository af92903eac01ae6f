//! Parts of every process: aligned timers, separate runtimes, accept loops, stop signals, reports to systemd.

mod accept;
mod side;
mod stop_signals;
mod systemd;
mod ticker;

pub use accept::accept;
pub use side::SideRuntime;
pub use stop_signals::StopSignals;
pub use systemd::SystemdNotifier;
pub use ticker::{AlignedTicker, every};
