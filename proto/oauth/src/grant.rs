//! Grants: the ways to obtain an access token, and the request of each.

use std::{
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use hyper::{
    Request, StatusCode,
    header::{ACCEPT, CONTENT_TYPE},
};
use oauth2::{
    AuthType, ClientId, ClientSecret, EndpointNotSet, EndpointSet, Scope, TokenResponse, TokenUrl,
    basic::{BasicClient, BasicErrorResponse, BasicTokenResponse, BasicTokenType},
};

use crate::{
    error::{self, TokenError},
    http::{self, HttpClient, TokenEndpoint},
    jwt::ServiceKey,
    secret::{self, AccessToken},
};

/// Client with a token endpoint.
pub(crate) type TokenClient =
    BasicClient<EndpointNotSet, EndpointNotSet, EndpointNotSet, EndpointNotSet, EndpointSet>;

/// Way to obtain access tokens.
#[derive(Debug, Clone)]
pub enum Grant {
    /// Client credentials (RFC 6749 §4.4), as Exchange Online has them for applications. One token serves all users.
    ClientCredentials {
        /// Id of the client.
        client_id: String,
        /// File with the secret of the client.
        secret_file: PathBuf,
        /// Scope, such as `https://outlook.office365.com/.default`.
        scope: String,
    },
    /// Refresh token (RFC 6749 §6) of one account.
    RefreshToken {
        /// Id of the client.
        client_id: String,
        /// File with the secret of the client; `None` for a public client.
        secret_file: Option<PathBuf>,
        /// File with the refresh token.
        token_file: PathBuf,
        /// Scope; `None` for that of the refresh token.
        scope: Option<String>,
    },
    /// Service account that acts for users (RFC 7523 §2.1), as Google Workspace has it. Each user has a token.
    ServiceAccount {
        /// JSON file with the key, as the provider issued it.
        key_file: PathBuf,
        /// Scope, such as `https://mail.google.com/`.
        scope: String,
    },
}

/// Token that the endpoint has granted.
pub(crate) struct Granted {
    pub(crate) token: AccessToken,
    /// Life, if the endpoint states it.
    pub(crate) expires_in: Option<Duration>,
}

/// A refresh token that the endpoint gave in place of the one in the file.
struct RotatedToken {
    /// Text of the file at that time: when the file changes, its new token counts.
    in_file: String,
    token: String,
}

/// Requests of one grant to one endpoint.
pub(crate) struct GrantClient {
    grant: Grant,
    http: HttpClient,
    url: TokenUrl,
    host: String,
    rotated: Mutex<Option<RotatedToken>>,
}

impl GrantClient {
    pub(crate) fn new(grant: Grant, endpoint: &TokenEndpoint) -> Result<Self, TokenError> {
        let http = HttpClient::new(&[endpoint.url.as_str()], endpoint.ca_file.as_deref(), endpoint.timeout)?;
        let host = http::host_of(&endpoint.url)?;
        let url = TokenUrl::new(endpoint.url.clone()).map_err(|_| TokenError::Url(endpoint.url.clone()))?;
        Ok(Self { grant, http, url, host, rotated: Mutex::default() })
    }

    /// Each user has a token, else one serves all.
    pub(crate) fn is_per_user(&self) -> bool {
        matches!(self.grant, Grant::ServiceAccount { .. })
    }

    pub(crate) fn host(&self) -> &str {
        &self.host
    }

    /// The endpoint has replaced the refresh token of the file.
    pub(crate) fn has_rotated(&self) -> bool {
        self.rotated().is_some()
    }

    /// Requests a token.
    pub(crate) async fn request(&self, user: &str) -> Result<Granted, TokenError> {
        match &self.grant {
            Grant::ClientCredentials { client_id, secret_file, scope } => {
                self.client_credentials(client_id, secret_file, scope).await
            }
            Grant::RefreshToken { client_id, secret_file, token_file, scope } => {
                self.refresh_token(client_id, secret_file.as_deref(), token_file, scope.as_deref()).await
            }
            Grant::ServiceAccount { key_file, scope } => self.service_account(key_file, scope, user).await,
        }
    }

    async fn client_credentials(&self, id: &str, secret_file: &Path, scope: &str) -> Result<Granted, TokenError> {
        let secret = secret::read(secret_file).await?;
        let client = client(id, Some(&secret), &self.url);
        let request = client.exchange_client_credentials().add_scopes(scopes(scope));
        let answer = request.request_async(&self.http).await;
        self.granted(&answer.map_err(|error| error::failure(&self.host, error, &[secret.as_str()]))?)
    }

    async fn refresh_token(
        &self,
        id: &str,
        secret_file: Option<&Path>,
        token_file: &Path,
        scope: Option<&str>,
    ) -> Result<Granted, TokenError> {
        let secret = match secret_file {
            Some(path) => Some(secret::read(path).await?),
            None => None,
        };
        let in_file = secret::read(token_file).await?;
        let token = match self.rotated().as_ref().filter(|rotated| rotated.in_file == in_file) {
            Some(rotated) => rotated.token.clone(),
            None => in_file.clone(),
        };
        let client = client(id, secret.as_deref(), &self.url);
        let refresh = oauth2::RefreshToken::new(token.clone());
        let request = client.exchange_refresh_token(&refresh).add_scopes(scopes(scope.unwrap_or_default()));
        match request.request_async(&self.http).await {
            Ok(answer) => {
                if let Some(new) = answer.refresh_token().map(|new| new.secret()).filter(|new| **new != token) {
                    *self.rotated() = Some(RotatedToken { in_file, token: new.clone() });
                }
                self.granted(&answer)
            }
            Err(error) => {
                let hidden = [secret.as_deref().unwrap_or_default(), token.as_str(), in_file.as_str()];
                let error = error::failure(&self.host, error, &hidden);
                // The next request tries the file again.
                if error.is_of_the_grant() {
                    *self.rotated() = None;
                }
                Err(error)
            }
        }
    }

    async fn service_account(&self, key_file: &Path, scope: &str, user: &str) -> Result<Granted, TokenError> {
        let key = ServiceKey::parse(key_file, &secret::read(key_file).await?)?;
        let assertion = key.assertion(self.url.as_str(), scope, user, twinbox_clock::wall()).ok_or_else(|| {
            TokenError::KeyFile { path: key_file.to_owned(), reason: "it cannot sign".to_owned() }
        })?;
        // No character of an assertion needs an escape.
        let form =
            format!("grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Ajwt-bearer&assertion={assertion}");
        let request = Request::post(self.url.as_str())
            .header(ACCEPT, "application/json")
            .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
            .body(form.into_bytes())
            .map_err(|_| TokenError::Url(self.url.to_string()))?;
        let answer = self.http.exchange(request).await?;
        if answer.status() == StatusCode::OK {
            let answer: BasicTokenResponse = serde_json::from_slice(answer.body())
                .map_err(|_| self.unusable("its answer is not that of a token endpoint"))?;
            return self.granted(&answer);
        }
        match serde_json::from_slice::<BasicErrorResponse>(answer.body()) {
            Ok(refusal) => Err(error::refused(&self.host, &refusal, &[assertion.as_str(), user])),
            Err(_) => Err(self.unusable(&format!("it answers {}", answer.status()))),
        }
    }

    fn granted(&self, answer: &BasicTokenResponse) -> Result<Granted, TokenError> {
        if *answer.token_type() != BasicTokenType::Bearer {
            return Err(self.unusable("its token is not of the type Bearer"));
        }
        let token = AccessToken::new(answer.access_token().secret())
            .ok_or_else(|| self.unusable("its token is empty, too long, or has characters that none may have"))?;
        Ok(Granted { token, expires_in: answer.expires_in() })
    }

    fn unusable(&self, reason: &str) -> TokenError {
        TokenError::Answer { host: self.host.clone(), reason: reason.to_owned() }
    }

    fn rotated(&self) -> MutexGuard<'_, Option<RotatedToken>> {
        self.rotated.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Client with id and secret in the form (RFC 6749 §2.3.1): all large providers take these.
pub(crate) fn client(id: &str, secret: Option<&str>, url: &TokenUrl) -> TokenClient {
    let client = BasicClient::new(ClientId::new(id.to_owned())).set_auth_type(AuthType::RequestBody);
    let client = match secret {
        Some(secret) => client.set_client_secret(ClientSecret::new(secret.to_owned())),
        None => client,
    };
    client.set_token_uri(url.clone())
}

/// The scopes of a setting, which are separated by spaces.
pub(crate) fn scopes(text: &str) -> impl Iterator<Item = Scope> {
    text.split_whitespace().map(|scope| Scope::new(scope.to_owned()))
}
