//! The HTTP transport, under its name in the original.

use std::convert::Infallible;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use tokio_util::sync::CancellationToken;
use tower::Service;
use tracing::error;
use zaqar_transport_http::{
    ALPN, ConnectionBody, ConnectionCounts, CorsRules, HttpService, Options, Server, ServerOptions,
    WithCors,
};

use crate::config::known::{Known, WSGI};
use crate::config::{Cors, Settings};
use crate::error::StartError;
use crate::transport::{Binding, Bound, Endpoint, Transport, TransportDriver, load_tls};

const SECTION: &str = "drivers:transport:wsgi";

pub(crate) struct Driver;

struct Http<S> {
    server: Server<S>,
    address: String,
}

#[async_trait]
impl TransportDriver for Driver {
    fn options(&self) -> &'static [Known] {
        WSGI
    }

    fn check(&self, settings: &Settings) -> Result<(), StartError> {
        load_tls(SECTION, settings.wsgi.tls.as_ref(), ALPN).map(drop)
    }

    async fn bind(&self, mut binding: Binding<'_>) -> Result<Box<dyn Transport>, StartError> {
        let settings = binding.settings;
        let section = &settings.wsgi;
        let endpoint = Endpoint {
            section: SECTION,
            schemes: ["http", "https"],
            host: &section.bind,
            port: section.port,
            unix_socket: section.unix_socket.as_deref(),
            tls: section.tls.as_ref(),
            protocols: ALPN,
        };
        let Bound { listener, tls, address } = binding.listen(endpoint).await?;
        let options = Options { admin: settings.admin_mode, ..Options::default() };
        let api = binding.api;
        let memory = api.memory().clone();
        let service = HttpService::new(api, options);
        let grace = settings.drain_timeout();
        let options = ServerOptions { memory, tls, grace, ..ServerOptions::default() };
        Ok(match &settings.cors {
            None => Box::new(Http { server: Server { listener, service, options }, address }),
            Some(cors) => {
                let service = WithCors::new(service, &rules(cors));
                Box::new(Http { server: Server { listener, service, options }, address })
            }
        })
    }
}

#[async_trait]
impl<S> Transport for Http<S>
where
    S: Service<Request<ConnectionBody>, Response = Response<Full<Bytes>>, Error = Infallible>
        + Clone
        + Send
        + Sync
        + 'static,
    S::Future: Send,
{
    fn address(&self) -> String {
        self.address.clone()
    }

    fn connections(&self) -> Option<ConnectionCounts> {
        Some(self.server.options.connections.clone())
    }

    async fn run(self: Box<Self>, shutdown: CancellationToken) {
        if let Err(error) = self.server.run(shutdown).await {
            let error = &error as &dyn std::error::Error;
            error!(error, "a transport failed");
        }
    }
}

fn rules(cors: &Cors) -> CorsRules {
    CorsRules {
        origins: cors.allowed_origins.clone(),
        credentials: cors.allow_credentials,
        expose_headers: cors.expose_headers.clone(),
        // Below zero, the browser's default applies.
        max_age: u64::try_from(cors.max_age).ok().map(Duration::from_secs),
        methods: cors.allow_methods.clone(),
        headers: cors.allow_headers.clone(),
    }
}
