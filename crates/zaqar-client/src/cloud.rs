//! Where the server is and who asks, as OpenStack's tools are told: `clouds.yaml` and `OS_*`.

use std::path::{Path, PathBuf};

use serde_json::Value;
use zaqar_core::Secret;

use crate::client::{Builder, Client};
use crate::keystone::{Credentials, Domain, Identity, Named};
use crate::{Error, Tls};

/// The largest file that is read.
const MAX_FILE: u64 = 1024 * 1024;

/// Settings by the names that environment variables have without `OS_`, in lower case.
///
/// A cloud of `clouds.yaml` and the environment give the same settings; the environment wins.
///
/// | setting | meaning |
/// |---|---|
/// | `auth_url`, `username` or `user_id`, `password`, `project_name` or `project_id` | Keystone, with a password |
/// | `user_domain_name` or `user_domain_id`, `project_domain_name` or `project_domain_id` | the domains of names; `Default` where they are missing |
/// | `application_credential_id` (or `_name` with a user), `application_credential_secret` | Keystone, with an application credential |
/// | `token` | a token that was made before, with `endpoint` |
/// | `region_name`, `interface` | which endpoint of the catalog |
/// | `endpoint`, `messaging_endpoint_override` | the server, whatever the catalog says |
/// | `cacert`, `insecure` | whose certificates are believed |
///
/// Without `auth_url` and `token` nobody authenticates, and `project_id` is sent as it is.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    values: Vec<(String, Secret<String>)>,
}

impl Settings {
    /// What the environment says; `OS_CLOUD` picks a cloud of `clouds.yaml`.
    ///
    /// # Errors
    /// [`Error::Config`] for a cloud that is not there and a file that cannot be read.
    pub fn from_env() -> Result<Self, Error> {
        Self::read(&|name| std::env::var(name).ok().filter(|value| !value.is_empty()), None)
    }

    /// What the environment says, and this cloud of `clouds.yaml`.
    ///
    /// # Errors
    /// As [`Settings::from_env`].
    pub fn from_cloud(cloud: &str) -> Result<Self, Error> {
        let cloud = Some(cloud);
        Self::read(&|name| std::env::var(name).ok().filter(|value| !value.is_empty()), cloud)
    }

    /// As [`Settings::from_cloud`], of an environment that the caller gives.
    ///
    /// # Errors
    /// As [`Settings::from_env`].
    pub fn read(env: &dyn Fn(&str) -> Option<String>, cloud: Option<&str>) -> Result<Self, Error> {
        let mut settings = Self::default();
        for name in NAMES {
            if let Some(value) = env(&format!("OS_{}", name.to_ascii_uppercase())) {
                settings.set(name, value);
            }
        }
        let chosen = cloud.map(ToOwned::to_owned).or_else(|| env("OS_CLOUD"));
        if let Some(cloud) = chosen {
            settings.add_cloud(&cloud, &files(env))?;
        }
        Ok(settings)
    }

    /// A setting.
    pub fn get(&self, name: &str) -> Option<&str> {
        let found = self.values.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.expose().as_str())
    }

    /// Sets what is not set.
    pub fn set(&mut self, name: &str, value: impl Into<String>) {
        if self.get(name).is_none() {
            self.values.push((name.to_owned(), Secret::new(value.into())));
        }
    }

    fn add_cloud(&mut self, cloud: &str, files: &[PathBuf]) -> Result<(), Error> {
        let what = || format!("cloud {cloud:?}");
        let mut is_there = false;
        for file in files {
            let Some(document) = load(file)? else { continue };
            let entry = &document["clouds"][cloud];
            let Some(entries) = entry.as_object() else { continue };
            is_there = true;
            let auth = entry["auth"].as_object().into_iter().flatten();
            for (name, value) in entries.iter().chain(auth) {
                let text = match value {
                    Value::String(text) => text.clone(),
                    Value::Number(number) => number.to_string(),
                    Value::Bool(flag) => flag.to_string(),
                    Value::Null | Value::Array(_) | Value::Object(_) => continue,
                };
                match name.as_str() {
                    // Its opposite is what the environment has.
                    "verify" => self.set("insecure", (text == "false").to_string()),
                    name => self.set(name, text),
                }
            }
        }
        if is_there {
            return Ok(());
        }
        let read: Vec<_> = files.iter().map(|file| file.display().to_string()).collect();
        Err(Error::config(what(), format!("it is in none of {}", read.join(", "))))
    }

    /// A client with these settings.
    ///
    /// # Errors
    /// [`Error::Config`] for a setting that is missing or wrong.
    pub fn builder(&self) -> Result<Builder, Error> {
        let mut builder = Client::builder();
        let endpoint = self.get("messaging_endpoint_override").or_else(|| self.get("endpoint"));
        if let Some(url) = endpoint {
            builder = builder.url(url);
        }
        if let Some(project) = self.get("project_id") {
            builder = builder.project(project);
        }
        let insecure = self.get("insecure").is_some_and(|text| {
            matches!(text.to_ascii_lowercase().as_str(), "true" | "1" | "yes" | "on")
        });
        if insecure {
            builder = builder.tls(Tls::Insecure);
        } else if let Some(path) = self.get("cacert") {
            builder = builder.tls(Tls::CaFile(PathBuf::from(path)));
        }
        if let Some(token) = self.get("token") {
            return Ok(builder.token(token));
        }
        let Some(auth_url) = self.get("auth_url") else { return Ok(builder) };
        let mut credentials = Credentials::new(auth_url, self.identity()?);
        credentials.region = self.get("region_name").map(ToOwned::to_owned);
        if let Some(interface) = self.get("interface") {
            let interface = interface.strip_suffix("URL").unwrap_or(interface);
            interface.clone_into(&mut credentials.interface);
        }
        Ok(builder.keystone(credentials))
    }

    fn identity(&self) -> Result<Identity, Error> {
        let secret = |name| self.needed(name).map(|value| Secret::new(value.to_owned()));
        let user = self.named("username", "user_id", "user_domain");
        if self.get("application_credential_secret").is_some() {
            let id = match self.get("application_credential_id") {
                Some(id) => Named::Id(id.to_owned()),
                None => Named::Name {
                    name: self.needed("application_credential_name")?.to_owned(),
                    domain: Domain::Name(String::new()),
                },
            };
            let user = match id {
                Named::Id(_) => None,
                Named::Name { .. } => Some(user.ok_or_else(|| missing("username"))?),
            };
            return Ok(Identity::Application {
                id,
                user,
                secret: secret("application_credential_secret")?,
            });
        }
        let project = self.named("project_name", "project_id", "project_domain");
        Ok(Identity::Password {
            user: user.ok_or_else(|| missing("username"))?,
            password: secret("password")?,
            project: project.ok_or_else(|| missing("project_name"))?,
        })
    }

    fn needed(&self, name: &'static str) -> Result<&str, Error> {
        self.get(name).ok_or_else(|| missing(name))
    }

    fn named(&self, name: &str, id: &str, domain: &str) -> Option<Named> {
        if let Some(id) = self.get(id) {
            return Some(Named::Id(id.to_owned()));
        }
        let domain = match self.get(&format!("{domain}_id")) {
            Some(id) => Domain::Id(id.to_owned()),
            None => {
                let name = self.get(&format!("{domain}_name")).unwrap_or("Default");
                Domain::Name(name.to_owned())
            }
        };
        Some(Named::Name { name: self.get(name)?.to_owned(), domain })
    }
}

/// The settings that the environment may have.
const NAMES: &[&str] = &[
    "auth_url",
    "username",
    "user_id",
    "password",
    "project_name",
    "project_id",
    "user_domain_name",
    "user_domain_id",
    "project_domain_name",
    "project_domain_id",
    "application_credential_id",
    "application_credential_name",
    "application_credential_secret",
    "token",
    "region_name",
    "interface",
    "endpoint",
    "messaging_endpoint_override",
    "cacert",
    "insecure",
];

fn missing(name: &str) -> Error {
    let variable = format!("OS_{}", name.to_ascii_uppercase());
    Error::config(variable, format!("it is missing, and so is {name} in the cloud"))
}

/// The files that may have clouds, the first to count first; secrets may be in one of their own.
fn files(env: &dyn Fn(&str) -> Option<String>) -> Vec<PathBuf> {
    if let Some(path) = env("OS_CLIENT_CONFIG_FILE") {
        let path = PathBuf::from(path);
        return vec![path.clone(), path.with_file_name("secure.yaml")];
    }
    let home = env("XDG_CONFIG_HOME").map(PathBuf::from);
    let home = home.or_else(|| env("HOME").map(|home| Path::new(&home).join(".config")));
    let directories = [Some(PathBuf::from(".")), home.map(|home| home.join("openstack"))];
    let directories = directories.into_iter().flatten();
    let directories = directories.chain([PathBuf::from("/etc/openstack")]);
    directories
        .flat_map(|directory| [directory.join("clouds.yaml"), directory.join("secure.yaml")])
        .collect()
}

/// A file's document, or `None` where there is no file.
fn load(path: &Path) -> Result<Option<Value>, Error> {
    let wrong = |reason: String| Error::config(path.display().to_string(), reason);
    match std::fs::metadata(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(wrong(error.to_string())),
        Ok(found) if found.len() > MAX_FILE => {
            return Err(wrong(format!("it has more than {MAX_FILE} bytes")));
        }
        Ok(_) => {}
    }
    let text = std::fs::read_to_string(path).map_err(|error| wrong(error.to_string()))?;
    serde_saphyr::from_str(&text).map(Some).map_err(|error| wrong(error.to_string()))
}

#[cfg(test)]
mod tests;
