//! Device grant (RFC 8628): an administrator confirms a code in a browser, and the endpoint gives a refresh token.

use std::{fmt, path::PathBuf, time::Duration};

use oauth2::{DeviceAuthorizationUrl, StandardDeviceAuthorizationResponse, TokenResponse, TokenUrl};

use crate::{
    error::{self, TokenError},
    grant::{self, TokenClient},
    http::{self, HttpClient, TokenEndpoint},
    secret::{self, RefreshToken},
};

/// Longest time for which a code is polled.
const LONGEST_LIFE: Duration = Duration::from_secs(3_600);
/// Longest interval between two polls that an endpoint may ask for.
const LONGEST_INTERVAL: Duration = Duration::from_secs(60);
/// Longest code for the user, and longest address, in bytes.
const LONGEST_TEXT: usize = 2_000;

/// Client of a device grant.
#[derive(Debug, Clone)]
pub struct DeviceClient {
    /// Id of the client.
    pub client_id: String,
    /// File with the secret of the client; `None` for a public client.
    pub secret_file: Option<PathBuf>,
    /// Scope; Microsoft gives a refresh token only if it contains `offline_access`.
    pub scope: String,
    /// URL of the device authorization endpoint (RFC 8628 §3.1).
    pub device_url: String,
}

/// A device grant that waits for its confirmation.
pub struct DeviceFlow {
    http: HttpClient,
    client: TokenClient,
    secret: Option<String>,
    host: String,
    details: StandardDeviceAuthorizationResponse,
}

impl DeviceFlow {
    /// Obtains a code for the user.
    ///
    /// # Errors
    /// The endpoint refuses, or its answer cannot be used.
    pub async fn begin(device: &DeviceClient, endpoint: &TokenEndpoint) -> Result<Self, TokenError> {
        let urls = [endpoint.url.as_str(), device.device_url.as_str()];
        let http = HttpClient::new(&urls, endpoint.ca_file.as_deref(), endpoint.timeout)?;
        let host = http::host_of(&device.device_url)?;
        let wrong = |url: &str| TokenError::Url(url.to_owned());
        let token_url = TokenUrl::new(endpoint.url.clone()).map_err(|_| wrong(&endpoint.url))?;
        let device_url =
            DeviceAuthorizationUrl::new(device.device_url.clone()).map_err(|_| wrong(&device.device_url))?;
        let secret = match &device.secret_file {
            Some(path) => Some(secret::read(path).await?),
            None => None,
        };
        let client = grant::client(&device.client_id, secret.as_deref(), &token_url);
        let asking = client.clone().set_device_authorization_url(device_url);
        let request = asking.exchange_device_code().add_scopes(grant::scopes(&device.scope));
        let details: StandardDeviceAuthorizationResponse = request
            .request_async(&http)
            .await
            .map_err(|error| error::failure(&host, error, &[secret.as_deref().unwrap_or_default()]))?;
        let texts = [details.user_code().secret().as_str(), details.verification_uri().as_str()];
        // These texts are shown on a terminal.
        let shown = |text: &&str| text.len() <= LONGEST_TEXT && !text.chars().any(char::is_control);
        if !texts.iter().all(shown) || details.interval() > LONGEST_INTERVAL {
            let reason = "its code, address or interval is not usable".to_owned();
            return Err(TokenError::Answer { host, reason });
        }
        Ok(Self { http, client, secret, host, details })
    }

    /// Code that the user types in at [`verification_url`](Self::verification_url).
    pub fn user_code(&self) -> &str {
        self.details.user_code().secret()
    }

    /// Address that the user opens in a browser.
    pub fn verification_url(&self) -> &str {
        self.details.verification_uri().as_str()
    }

    /// Time for which the code can be confirmed.
    pub fn expires_in(&self) -> Duration {
        self.details.expires_in().min(LONGEST_LIFE)
    }

    /// Polls until the user has confirmed the code, and returns the refresh token. `sleep` waits between two polls, as
    /// `tokio::time::sleep` does.
    ///
    /// # Errors
    /// The user refused (`access_denied`), or the code has expired (`expired_token`).
    pub async fn poll<S, F>(&self, sleep: S) -> Result<RefreshToken, TokenError>
    where
        S: Fn(Duration) -> F,
        F: Future<Output = ()>,
    {
        let request = self.client.exchange_device_access_token(&self.details);
        let hidden = [self.secret.as_deref().unwrap_or_default(), self.details.device_code().secret().as_str()];
        let answer = request
            .request_async(&self.http, &sleep, Some(self.expires_in()))
            .await
            .map_err(|error| error::failure(&self.host, error, &hidden))?;
        let token = answer.refresh_token().and_then(|token| RefreshToken::new(token.secret()));
        token.ok_or_else(|| TokenError::Answer {
            host: self.host.clone(),
            reason: "it gave no refresh token: add offline_access to the scope".to_owned(),
        })
    }
}

impl fmt::Debug for DeviceFlow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DeviceFlow({})", self.host)
    }
}
