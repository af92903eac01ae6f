//! Duties that work from the outbox, over real stores and a real gate.

mod attempts;
mod gathered;
mod lost;
mod notifications;
mod secrets;
mod support;
mod take_over;
