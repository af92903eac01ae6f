//! One module for each first word of the command line.

pub mod call;
pub mod cluster;
pub mod config;
pub mod duty;
pub mod message;
pub mod run;
pub mod user;
