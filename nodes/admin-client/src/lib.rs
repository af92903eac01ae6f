//! Parts that all commands share: the connection to a node, the failures that they report, lists in parts, new PINs.

pub mod client;
mod error;
pub mod pages;
pub mod pin;

pub use client::RemoteNode;
pub use error::CliError;
