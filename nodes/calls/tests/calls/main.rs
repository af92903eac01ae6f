//! Tests of the public interface.

mod config;
mod dialogs;
mod floods;
mod holds;
mod kit;
mod messages;
mod mwi;
mod privacy;
mod redirected;
mod refusals;
mod self_test;
mod signalling;
mod trunks;
