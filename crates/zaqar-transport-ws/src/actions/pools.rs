//! Pools and flavors, for administrators.

use serde_json::{Map, Value, json};
use zaqar_api::pools::{
    drain_document, flavor_document, pool_document, read_flavor, read_move, read_pool,
    read_pool_change, read_pool_list,
};
use zaqar_api::{
    CreateFlavor, CreatePool, DeleteFlavor, DeletePool, DrainPool, Error, GetFlavor, GetPool,
    ListFlavors, ListPools, ReadDrain, StopDrain, UpdateFlavor, UpdatePool,
};
use zaqar_core::pools::{FlavorName, PoolName};

use super::{Exchange, HandlerResult};
use crate::error::WsError;
use crate::reply::Reply;

impl Exchange {
    pub(super) async fn list_pools(&self) -> HandlerResult {
        self.check_admin_mode()?;
        let body = &self.request.body;
        let request = ListPools { marker: body.text("marker"), limit: body.integer("limit") };
        let pools = self.call(request).await?;
        let detailed = self.lenient_boolean("detailed");
        let pools: Vec<_> = pools.iter().map(|pool| pool_document(pool, detailed)).collect();
        Ok(Reply::json(200, json!({ "pools": pools })))
    }

    pub(super) async fn create_pool(&self) -> HandlerResult {
        self.check_admin_mode()?;
        let pool = read_pool(self.pool()?, &self.members(&["uri", "weight", "flavor", "options"]))?;
        let text = format!("Pool {} created.", pool.name);
        self.call(CreatePool { pool }).await?;
        Ok(Reply::json(201, text.into()))
    }

    pub(super) async fn update_pool(&self) -> HandlerResult {
        self.check_admin_mode()?;
        let members = self.members(&["uri", "weight", "flavor", "options"]);
        let request = UpdatePool { name: self.pool()?, change: read_pool_change(&members)? };
        let pool = self.call(request).await?;
        Ok(Reply::json(200, pool_document(&pool, false).into()))
    }

    pub(super) async fn get_pool(&self) -> HandlerResult {
        self.check_admin_mode()?;
        let pool = self.call(GetPool { name: self.pool()? }).await?;
        Ok(Reply::json(200, pool_document(&pool, self.lenient_boolean("detailed")).into()))
    }

    pub(super) async fn delete_pool(&self) -> HandlerResult {
        self.check_admin_mode()?;
        let name = self.pool()?;
        let text = format!("Pool {name} removed.");
        self.call(DeletePool { name }).await?;
        Ok(Reply::json(204, text.into()))
    }

    pub(super) async fn drain_pool(&self) -> HandlerResult {
        self.check_admin_mode()?;
        let pool = self.pool()?;
        let text = format!("Drain of pool {pool} began.");
        self.call(DrainPool { pool }).await?;
        Ok(Reply::json(202, text.into()))
    }

    pub(super) async fn get_drain(&self) -> HandlerResult {
        self.check_admin_mode()?;
        let drain = self.call(ReadDrain { pool: self.pool()? }).await?;
        Ok(Reply::json(200, drain_document(&drain)))
    }

    pub(super) async fn stop_drain(&self) -> HandlerResult {
        self.check_admin_mode()?;
        let pool = self.pool()?;
        let text = format!("Drain of pool {pool} stopped.");
        self.call(StopDrain { pool }).await?;
        Ok(Reply::json(204, text.into()))
    }

    pub(super) async fn move_queue(&self) -> HandlerResult {
        self.check_admin_mode()?;
        let request = read_move(self.pool()?, &self.members(&["queue_name", "kind", "project"]))?;
        let text = format!("Move of queue {} to pool {} began.", request.name, request.pool);
        self.call(request).await?;
        Ok(Reply::json(202, text.into()))
    }

    pub(super) async fn list_flavors(&self) -> HandlerResult {
        self.check_admin_mode()?;
        let body = &self.request.body;
        let request = ListFlavors { marker: body.text("marker"), limit: body.integer("limit") };
        let flavors = self.call(request).await?;
        let detailed = self.lenient_boolean("detailed");
        let flavors: Vec<_> = flavors.iter().map(|one| flavor_document(one, detailed)).collect();
        Ok(Reply::json(200, json!({ "flavors": flavors })))
    }

    pub(super) async fn create_flavor(&self) -> HandlerResult {
        self.check_admin_mode()?;
        let pools = read_flavor(&self.members(&["pool_list", "capabilities"]))?;
        let name = self.flavor()?;
        let text = format!("Flavor {name} created.");
        self.call(CreateFlavor { name, pools }).await?;
        Ok(Reply::json(201, text.into()))
    }

    pub(super) async fn update_flavor(&self) -> HandlerResult {
        self.check_admin_mode()?;
        let pools = read_pool_list(&self.members(&["pool_list"]))?;
        let flavor = self.call(UpdateFlavor { name: self.flavor()?, pools }).await?;
        Ok(Reply::json(200, flavor_document(&flavor, true).into()))
    }

    pub(super) async fn get_flavor(&self) -> HandlerResult {
        self.check_admin_mode()?;
        let flavor = self.call(GetFlavor { name: self.flavor()? }).await?;
        Ok(Reply::json(200, flavor_document(&flavor, true).into()))
    }

    pub(super) async fn delete_flavor(&self) -> HandlerResult {
        self.check_admin_mode()?;
        let name = self.flavor()?;
        let text = format!("Flavor {name} removed.");
        self.call(DeleteFlavor { name }).await?;
        Ok(Reply::json(204, text.into()))
    }

    pub(super) fn check_admin_mode(&self) -> Result<(), WsError> {
        if self.admin { Ok(()) } else { Err(WsError::Api(Error::Forbidden)) }
    }

    fn pool(&self) -> Result<PoolName, WsError> {
        PoolName::new(&self.text("pool_name")).map_err(|error| {
            WsError::invalid(format!("pool_name is not a valid pool name: {error}."))
        })
    }

    fn flavor(&self) -> Result<FlavorName, WsError> {
        FlavorName::new(&self.text("flavor_name")).map_err(|error| {
            WsError::invalid(format!("flavor_name is not a valid flavor name: {error}."))
        })
    }

    /// Members of the body that describe a pool or flavor.
    pub(super) fn members(&self, names: &[&str]) -> Map<String, Value> {
        let member = |name: &&str| {
            let value = serde_json::from_slice(self.request.body.get(name)?).ok()?;
            Some(((*name).to_owned(), value))
        };
        names.iter().filter_map(member).collect()
    }
}
