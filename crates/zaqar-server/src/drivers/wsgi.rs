//! The HTTP transport, under the original's name for it.

use std::convert::Infallible;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tower::Service;
use zaqar_api::Api;
use zaqar_transport_http::{CorsRules, HttpService, Options, Server, ServerOptions, WithCors};

use crate::config::{Cors, Settings};
use crate::drivers::warn_of_strangers;
use crate::registry::{StartError, Transport, TransportDriver};

pub(crate) struct Driver;

struct Http<S> {
    server: Server<S>,
    address: String,
}

#[async_trait]
impl TransportDriver for Driver {
    async fn bind(&self, api: Api, settings: &Settings) -> Result<Box<dyn Transport>, StartError> {
        let (host, port) = (settings.wsgi.bind.as_str(), settings.wsgi.port);
        let listener = TcpListener::bind((host, port)).await.map_err(|error| {
            format!("[drivers:transport:wsgi] cannot listen on {host} port {port}: {error}")
        })?;
        let local = listener.local_addr()?;
        warn_of_strangers(local, settings);
        let options = Options { admin: settings.admin_mode, ..Options::default() };
        let service = HttpService::new(api, options);
        let address = format!("http://{local}");
        let options = ServerOptions::default();
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
    S: Service<Request<Incoming>, Response = Response<Full<Bytes>>, Error = Infallible>
        + Clone
        + Send
        + 'static,
    S::Future: Send,
{
    fn address(&self) -> String {
        self.address.clone()
    }

    async fn run(self: Box<Self>, shutdown: CancellationToken) {
        self.server.run(shutdown).await;
    }
}

fn rules(cors: &Cors) -> CorsRules {
    CorsRules {
        origins: cors.allowed_origins.clone(),
        credentials: cors.allow_credentials,
        expose_headers: cors.expose_headers.clone(),
        // Below zero: the browser's own default.
        max_age: u64::try_from(cors.max_age).ok().map(Duration::from_secs),
        methods: cors.allow_methods.clone(),
        headers: cors.allow_headers.clone(),
    }
}
