"""`headway bench`: load tests whose arrivals do not wait for answers."""
