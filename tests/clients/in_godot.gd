# Run by Godot 3 with the scenes' names in SCENES: tells of every node as a line "NODE {...}".
extends SceneTree

func tell(scene, node):
    var told = {"scene": scene, "name": node.name, "class": node.get_class()}
    if node is MeshInstance:
        var box = node.get_aabb()
        told["low"] = [box.position.x, box.position.y, box.position.z]
        told["size"] = [box.size.x, box.size.y, box.size.z]
        told["faces"] = node.mesh.get_faces().size() / 3
        var material = node.mesh.surface_get_material(0)
        told["material"] = material.resource_name
        told["maps"] = []
        for name in ["albedo", "normal", "roughness", "metallic", "ao"]:
            if material.get(name + "_texture"):
                told["maps"].append(name)
    if node is CollisionShape:
        told["shape"] = node.shape.get_class()
        told["body"] = node.get_parent().name
    print("NODE " + to_json(told))
    for child in node.get_children():
        tell(scene, child)

func _init():
    for name in OS.get_environment("SCENES").split(","):
        tell(name, load("res://" + name).instance())
    quit()
