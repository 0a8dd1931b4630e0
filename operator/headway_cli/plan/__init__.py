"""`headway plan`: GPU type, tensor parallelism and replicas for a load."""
