//! The HTTP API in a hyper program of one's own, which decides who asks: `in-hyper [ADDRESS]`.

use std::error::Error;
use std::sync::Arc;

use hyper::Request;
use hyper::body::Incoming;
use hyper::header::HeaderValue;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use zaqar_api::Api;
use zaqar_storage_testkit::Memory;
use zaqar_transport_http::{HttpService, Options};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:8888".to_owned());
    let store = Arc::new(Memory::new());
    let api = Api::new(store.clone(), store, zaqar_api::Options::default());
    let service = TowerToHyperService::new(HttpService::new(api, Options::default()));
    let listener = TcpListener::bind(address).await?;
    println!("http://{}", listener.local_addr()?);
    loop {
        let (stream, _) = listener.accept().await?;
        let service = service.clone();
        tokio::spawn(async move {
            let one_tenant = hyper::service::service_fn(move |mut request: Request<Incoming>| {
                // Whatever the client claims: this program has one tenant.
                let project = HeaderValue::from_static("house");
                request.headers_mut().insert("x-project-id", project);
                request.headers_mut().remove("x-roles");
                hyper::service::Service::call(&service, request)
            });
            let connection = hyper::server::conn::http1::Builder::new();
            // A connection that breaks concerns its client alone.
            let _ = connection.serve_connection(TokioIo::new(stream), one_tenant).await;
        });
    }
}
