"""The output nodes that a parameter node names: those that the next run overwrites."""

from .job import OUTPUTS

MEMBERS = {name: f"output{name.capitalize()}" for name in OUTPUTS}


def wanted(parameters):
    """Outputs that are asked for: name -> node, or True for a new one."""
    return {name: getattr(parameters, member) or True for name, member in MEMBERS.items()
            if getattr(parameters, f"make{name.capitalize()}")}


def take(parameters, nodes):
    """Name output nodes, by the names of the outputs."""
    for name, node in nodes.items():
        setattr(parameters, MEMBERS[name], node)


def drop(parameters, isUnwanted, *others):
    """Name none where ``isUnwanted``, a function of a node, says so.

    :param others: further members of the parameter node to look at.
    """
    for member in (*MEMBERS.values(), *others):
        node = getattr(parameters, member)
        if node is not None and isUnwanted(node):
            setattr(parameters, member, None)
