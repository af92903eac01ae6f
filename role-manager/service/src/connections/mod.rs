//! Connections to the other members, requests on both sides, and their wire form.

pub(crate) mod convert;
pub(crate) mod dialer;
pub(crate) mod request_stream;
pub(crate) mod server;
pub(crate) mod talk;
