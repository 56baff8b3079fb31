//! Where the server is and who asks.

use std::time::Duration;

use clap::Args;
use zaqar_client::cloud::Settings;
use zaqar_client::{Client, SignedUrl, Tls};

use crate::Failure;

/// The settings of every command. The command line wins over the environment, and the environment
/// over `clouds.yaml`.
#[derive(Debug, Args)]
pub(crate) struct Connection {
    /// The server: http://HOST:8888. Else OS_ENDPOINT, the cloud, or the catalog of Keystone
    #[arg(long, global = true, value_name = "URL")]
    url: Option<String>,
    /// The project, for servers without authentication. Else OS_PROJECT_ID
    #[arg(long, global = true, value_name = "ID")]
    project: Option<String>,
    /// The roles to claim of a server without authentication
    #[arg(long, global = true, value_name = "ROLES")]
    roles: Option<String>,
    /// A cloud of clouds.yaml. Else OS_CLOUD
    #[arg(long, global = true, value_name = "NAME")]
    cloud: Option<String>,
    /// A pre-signed URL, as `queue share --format json` prints it, instead of credentials
    #[arg(long, global = true, value_name = "FILE")]
    signed: Option<std::path::PathBuf>,
    /// The UUID of this client; lists can leave out what the same client posted
    #[arg(long, global = true, value_name = "UUID", env = "OS_MESSAGE_CLIENT_ID")]
    client_id: Option<String>,
    /// A file with the authorities whose certificates are believed. Else OS_CACERT, or the system's
    #[arg(long, global = true, value_name = "FILE")]
    ca_file: Option<std::path::PathBuf>,
    /// Seconds that a request may take
    #[arg(long, global = true, value_name = "SECONDS", default_value_t = 30,
        value_parser = clap::value_parser!(u64).range(1..=3600))]
    timeout: u64,
}

/// A client with these settings.
pub(crate) fn client(connection: &Connection) -> Result<Client, Failure> {
    let settings = match &connection.cloud {
        Some(cloud) => Settings::from_cloud(cloud)?,
        None => Settings::from_env()?,
    };
    let mut builder = settings.builder()?.timeout(Duration::from_secs(connection.timeout));
    if let Some(url) = &connection.url {
        builder = builder.url(url);
    }
    if let Some(project) = &connection.project {
        builder = builder.project(project);
    }
    if let Some(roles) = &connection.roles {
        builder = builder.roles(roles);
    }
    if let Some(id) = &connection.client_id {
        builder = builder.client_id(id);
    }
    if let Some(path) = &connection.ca_file {
        builder = builder.tls(Tls::CaFile(path.clone()));
    }
    if let Some(path) = &connection.signed {
        let wrong = |reason: String| Failure::Usage(format!("{}: {reason}", path.display()));
        let text = std::fs::read_to_string(path).map_err(|error| wrong(error.to_string()))?;
        let url: SignedUrl =
            serde_json::from_str(&text).map_err(|error| wrong(error.to_string()))?;
        builder = builder.signed(url);
    }
    Ok(builder.build()?)
}
