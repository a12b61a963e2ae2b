//! Several nodes that form one cluster, for replicas and failover.

use anyhow::{Context, Result};
use reqwest::Method;

use crate::product::Product;
use crate::search_node::{NodeOptions, SearchNode};

/// A cluster of nodes. The first is its only master, so killing any other leaves a cluster that answers.
#[derive(Debug)]
pub struct SearchCluster {
    nodes: Vec<SearchNode>,
}

impl SearchCluster {
    /// Starts `size` nodes and waits until they have found each other.
    pub async fn start(product: Product, size: usize) -> Result<SearchCluster> {
        Self::start_with(product, size, NodeOptions::default()).await
    }

    /// The same, all nodes with these options.
    pub async fn start_with(
        product: Product,
        size: usize,
        options: NodeOptions,
    ) -> Result<SearchCluster> {
        let master_setting = match product {
            Product::Os2 | Product::Os3 | Product::Os2Secured => {
                "cluster.initial_cluster_manager_nodes"
            }
            _ => "cluster.initial_master_nodes",
        };
        let first = options.clone().with_setting(master_setting, "n0");
        let first = SearchNode::start_with(product, first).await?;
        let seed = format!("127.0.0.1:{}", first.transport_port());
        let mut nodes = vec![first];
        for number in 1..size {
            let options = NodeOptions {
                name: format!("n{number}"),
                ..options.clone()
            }
            .with_setting("discovery.seed_hosts", &seed)
            .with_setting("node.roles", "data,ingest");
            nodes.push(SearchNode::start_with(product, options).await?);
        }
        let cluster = Self { nodes };
        cluster.wait_for_nodes(size).await?;
        Ok(cluster)
    }

    /// All nodes; `n0` is the master.
    pub fn nodes(&self) -> &[SearchNode] {
        &self.nodes
    }

    /// One of them, to kill or restart.
    pub fn node_mut(&mut self, number: usize) -> &mut SearchNode {
        &mut self.nodes[number]
    }

    /// Kills a node at once.
    pub fn kill(&mut self, number: usize) {
        self.nodes[number].kill();
    }

    /// Where each node answers.
    pub fn urls(&self) -> Vec<String> {
        self.nodes.iter().map(SearchNode::url).collect()
    }

    /// Waits until the master counts this many nodes.
    pub async fn wait_for_nodes(&self, count: usize) -> Result<()> {
        self.wait_for_health(&format!("wait_for_nodes={count}"))
            .await
    }

    /// Waits until every replica is in place.
    pub async fn wait_for_green(&self) -> Result<()> {
        self.wait_for_health("wait_for_status=green&wait_for_no_relocating_shards=true")
            .await
    }

    async fn wait_for_health(&self, condition: &str) -> Result<()> {
        let path = format!("/_cluster/health?{condition}&timeout=50s");
        let (status, health) = self.nodes[0].http().request(Method::GET, &path, "").await?;
        (status == 200)
            .then_some(())
            .with_context(|| format!("the cluster did not reach {condition}: {health}"))
    }
}
