"""`headway simulate`: traces through a simulated fleet, under the operator's policy, its rivals, and bounds."""
