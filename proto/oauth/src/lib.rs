//! OAuth 2.0 access tokens for mail accounts (RFC 6749): client credentials, refresh token, service account (RFC 7523),
//! and the device grant (RFC 8628) by which an administrator obtains a refresh token.
//!
//! A [`TokenSource`] gives the tokens of one mail server. It remembers each token until shortly before its expiry, asks
//! the token endpoint once for all callers that wait for the same token, and pauses after failures: a thousand accounts
//! with one refused client do not send a thousand requests. Secrets come from files, which are read at each request.

mod cache;
mod device;
mod error;
mod grant;
mod http;
mod jwt;
mod secret;
mod source;

pub use device::{DeviceClient, DeviceFlow};
pub use error::TokenError;
pub use grant::Grant;
pub use http::TokenEndpoint;
pub use secret::{AccessToken, RefreshToken};
pub use source::TokenSource;
