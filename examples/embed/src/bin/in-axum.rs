//! The HTTP API beside routes of one's own in one axum program: `in-axum [ADDRESS]`.

use std::error::Error;
use std::sync::Arc;

use axum::Router;
use axum::routing::get;
use tokio::net::TcpListener;
use zaqar_api::Api;
use zaqar_storage_testkit::Memory;
use zaqar_transport_http::{HttpService, Options};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:8888".to_owned());
    // Any store will do: `zaqar-storage-embedded` keeps what it is given.
    let store = Arc::new(Memory::new());
    let api = Api::new(store.clone(), store, zaqar_api::Options::default());
    let app = Router::new()
        .route("/hello", get(|| async { "hello from the program itself" }))
        .fallback_service(HttpService::new(api, Options::default()));
    let listener = TcpListener::bind(address).await?;
    println!("http://{}", listener.local_addr()?);
    axum::serve(listener, app).await?;
    Ok(())
}
