//! Tokens and the device grant, against a token endpoint of the test.

mod device;
mod server;
mod source;
